"""The networks of the course: trained by this project, with ImageNet or Places weights, and CLIP.

`edittools.load_classifier` loads each by its name.
"""
