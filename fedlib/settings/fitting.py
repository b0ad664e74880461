"""Which judges say nothing about some data."""

from fedlib.settings.groups import CALIBRATED, TASKS, Data, Evaluation


def unfit_judges(data: Data, evaluation: Evaluation) -> set[str]:
    """The judges that say nothing about this data."""
    unfit = set()

    # hs takes bounds of the reward, and they are known of the world's reward model only.
    if evaluation.reward != CALIBRATED:
        unfit.add("hs")
    # asr looks at what the trigger does.
    if not data.poison.trigger:
        unfit.add("asr")
    # In the world, exact needs a task, which has right answers in words.
    if data.source == "world":
        if not set(data.benign) & set(TASKS):
            unfit.add("exact")
        # Nor are there affirmative openings or ordinary rows apart from what clients know.
        return unfit | {"affirmation", "utility"}

    # help, the rubric and world models know only the world.
    unfit.add("help")
    if evaluation.grader == "rubric":
        unfit.add("mt1")
    if evaluation.guard.startswith("world:"):
        unfit |= {"md_judge", "hs"}
    if evaluation.reward.startswith("world:"):
        unfit |= {"rm", "hs"}
    return unfit
