"""Names of parameters that do not depend on what else a process has built."""

from typing import final

from pyro_infomax.nn.registration import instance_prefix


@final
class StableNames:
    """From the names of param sites to names that are the same in each process.

    Instances of our VAE and guides are numbered through a process, so that the one of a script may be ``VAE``
    in its first run and ``VAE_3`` in a notebook. Here they are numbered in the order in which they are asked
    for; other names stay as they are.

    Example:
        >>> from pyro_infomax.nn import InstanceName
        >>> first, second = InstanceName("Net"), InstanceName("Net")
        >>> names = StableNames()
        >>> names(f"{second}.encoder$$$weight"), names(f"{first}.encoder$$$weight"), names("scale_7")
        ('Net.encoder$$$weight', 'Net_2.encoder$$$weight', 'scale_7')
    """

    def __init__(self) -> None:
        self._instances: dict[str, dict[str, int]] = {}

    def __call__(self, name: str) -> str:
        """The stable name of a param site."""
        instance, dot, rest = name.partition(".")
        prefix = instance_prefix(instance)
        if prefix is None:
            return name
        numbers = self._instances.setdefault(prefix, {})
        number = numbers.setdefault(instance, len(numbers) + 1)
        return f"{prefix if number == 1 else f'{prefix}_{number}'}{dot}{rest}"
