"""Whether what training needs is installed; importing this loads none of it."""

from importlib.util import find_spec

from streamserve.errors import SetupError

NEEDED = ("torch", "stable_baselines3", "sb3_contrib", "gymnasium", "tensorboard", "matplotlib", "tqdm")


def check() -> None:
    """Raises `SetupError` with what is missing."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise SetupError(f"{', '.join(missing)} not installed: pip install 'streamserve[train]'")
