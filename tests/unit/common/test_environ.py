import os

import pytest

from rad_lightning.common.environ import variable


@pytest.mark.parametrize("before", [None, "old"])
def test_a_variable_is_put_back_whatever_happens(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delenv("RAD_TEST", raising=False)
    if before is not None:
        monkeypatch.setenv("RAD_TEST", before)
    with pytest.raises(KeyError), variable("RAD_TEST", "new"):
        assert os.environ["RAD_TEST"] == "new"
        raise KeyError
    assert os.environ.get("RAD_TEST") == before
