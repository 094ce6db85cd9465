"""The exception tree. Each error is for a user: one line that names the thing, then what to do.

ExpertlyError (a ValueError)
├── ConfigError       a config key, a value in it, or a model_type
├── CheckpointError   a model's files: missing, damaged, left over, unfilled, of the wrong shape
├── InputError        a prompt, a text, an option, a request
├── RecipeError       a training recipe
├── OutputError       a file that cannot be written
└── RankError         another process of a run on several
"""


class ExpertlyError(ValueError):
    """Base of all errors that a user can mend; `hint` says how."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message}\nhint: {hint}")
        self.message = message
        self.hint = hint


class ConfigError(ExpertlyError):
    pass


class CheckpointError(ExpertlyError):
    pass


class InputError(ExpertlyError):
    pass


class RecipeError(ExpertlyError):
    pass


class OutputError(ExpertlyError):
    pass


class RankError(ExpertlyError):
    pass
