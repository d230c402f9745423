"""The desk: look at misclassified images, mark what misleads, rewrite, and measure where the mark is elsewhere.

`state` holds what a person has done, `engine` computes what that asks for, `worker` runs it, `view` shows both, `files`
keeps marks and results, `desk` ties them together, and `page` serves the desk to a browser.
"""
