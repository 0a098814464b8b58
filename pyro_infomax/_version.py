"""The version, and how datasets bear it."""

__version__ = "0.1.0"


def creation_attributes() -> dict[str, str]:
    """What ArviZ's schema asks a dataset to say of the libraries that made it."""
    import pyro

    return {
        "inference_library": "pyro",
        "inference_library_version": pyro.__version__,
        "creation_library": "pyro_infomax",
        "creation_library_version": __version__,
    }
