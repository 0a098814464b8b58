"""The bar waits, and need not be there at all."""

from pyro_infomax import _progress as module
from pyro_infomax._progress import patiently


def test_the_bar_waits_and_can_be_unwanted(capsys, monkeypatch) -> None:
    assert list(patiently("abc", "letters")) == list("abc")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    assert list(patiently("abc", "letters", progress=False)) == list("abc")
    assert capsys.readouterr().err == ""
    assert list(patiently("abc", "letters")) == list("abc")
    assert "letters" in capsys.readouterr().err
