"""DiffuSpec for `model.generate(..., custom_generate=REPOSITORY, trust_remote_code=True)`; see the README beside."""

try:
    from diffuspec.hf.generate import diffuspec_generate
except ImportError as error:
    raise ImportError(
        f"This decoding method needs the package diffuspec ({error}): clone its repository and `pip install .` there."
    ) from error


def generate(model, inputs=None, **arguments):
    """Called by transformers with all arguments of `model.generate`, and those of `diffuspec_generate` beside them."""
    input_ids = arguments.pop("input_ids", None)
    return diffuspec_generate(model, inputs if inputs is not None else input_ids, **arguments)
