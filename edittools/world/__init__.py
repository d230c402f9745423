"""MiniWorld: rendered scenes with exact masks and planted rules, textures, and labels with written words."""

from edittools.checks import extra

with extra("world", "stories"):
    from edittools.world.contexts import GROUNDS, SPLITS, contexts, planted_rules
    from edittools.world.miniworld import CLASSES, Scene, scene, scenes
    from edittools.world.textures import STYLES, restyle, style_textures, texture
    from edittools.world.typography import Label, blanked, stick, written

__all__ = [
    "CLASSES",
    "GROUNDS",
    "SPLITS",
    "STYLES",
    "Label",
    "Scene",
    "blanked",
    "contexts",
    "planted_rules",
    "restyle",
    "scene",
    "scenes",
    "stick",
    "style_textures",
    "texture",
    "written",
]
