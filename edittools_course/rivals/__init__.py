"""Methods that edits are compared with: projections of the concept, and fine-tuning on the exemplars."""

from edittools.methods import Method
from edittools_course.rivals.finetuning import SCOPES, finetune
from edittools_course.rivals.projection import PROJECTIONS, project_concept

RIVALS = {
    method.name: method
    for method in (
        Method("projection", project_concept, PROJECTIONS),
        Method("local fine-tuning", finetune, ({"scope": "local"},), (1.0,)),
        Method("global fine-tuning", finetune, ({"scope": "global"},), (1.0,)),
    )
}
"""The rivals by name, like `edittools.methods.METHODS`."""

__all__ = ["PROJECTIONS", "RIVALS", "SCOPES", "finetune", "project_concept"]
