"""Judges of responses: prompts and responses in, a score for each response out.

What other rooms import from here:

- `panel.judges(settings, what, prompts, holds_target, is_fluent)`: the judges that a run asks for;
  `panel.summed` makes their marks into scores; `panel.JUDGES` is the table of all judges by name.
- `refusals.refuses(text)`: whether a text holds a refusal phrase.
- `matching`: judges that need no model.
- `classifiers`: judges that ask a guard or a reward model, or pass the question on to `words`: it
  asks language models that answer in words.

- `trial.try_judges`: asks those that are models about known answers.

`words` has three helpers: `endpoint` asks a model over HTTP, `answers` keeps what was answered, and
`verdicts` reads it. No
module here imports torch or openai before it is called. This room imports models and settings.
"""

from fedlib.judges.detector import refusal

__all__ = ["refusal"]
