"""MiniWorld: rendered scenes with exact masks and planted rules, textures, and stickers with written words."""

from edittools._checks import extra

with extra("miniworld", "notebooks"):
    from edittools.probing.textures import STYLES, restyle, style_textures, texture
    from edittools_course.miniworld.contexts import GROUNDS, SPLITS, contexts, planted_rules
    from edittools_course.miniworld.scenes import CLASSES, Scene, scene, scenes
    from edittools_course.miniworld.typography import Sticker, blanked, stick, written

__all__ = [
    "CLASSES",
    "GROUNDS",
    "SPLITS",
    "STYLES",
    "Scene",
    "Sticker",
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
