"""Errors meant for the person at the keyboard.

Every message says what is wrong and what to do about it. The command line prints it without
a traceback, the playground shows it as a notice.
"""


class DiffuSpecError(Exception):
    """Base of every error the user can cause or mend."""


class SettingsError(DiffuSpecError, ValueError):
    """A knob outside its bounds, or knobs that contradict each other."""


class PromptError(DiffuSpecError, ValueError):
    """An empty prompt, or one that does not fit the context."""


class PairError(DiffuSpecError, ValueError):
    """An unknown pair, or a drafter that does not fit its target."""


class WeightsError(DiffuSpecError, RuntimeError):
    """Weights that are missing, damaged or out of reach."""


class ModelError(DiffuSpecError, RuntimeError):
    """A model that computed something that is not a number."""


class TraceError(DiffuSpecError, ValueError):
    """A file that is not a readable trace."""


class BusyError(DiffuSpecError, RuntimeError):
    """More work is waiting for the models than this machine takes on."""


class MethodError(DiffuSpecError, RuntimeError):
    """A method that cannot run here: a missing package, or a pair it is not made for."""


class ResultsError(DiffuSpecError, ValueError):
    """A file of results that is damaged, or that other settings made."""


class ServerError(DiffuSpecError, RuntimeError):
    """A server as the target that cannot be reached, refuses what is asked, or answers in a way that cannot be used."""


class Stopped(Exception):  # noqa: N818
    """No error: what was under way was given up because somebody wanted to stop."""
