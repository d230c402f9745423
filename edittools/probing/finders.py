"""`edittools.probing.finders` of version 0.2."""

from edittools._moved import refuse

refuse("edittools.probing.finders")
