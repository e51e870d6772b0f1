"""What this machine knows of: runs that were launched from it, and clusters that have a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexa_sdk import settings
from nexa_sdk.cluster import KNOWN, Cluster
from nexa_sdk.errors import RunNotFound
from nexa_sdk.profiles import profiles
from nexa_sdk.transports.ssh.address import HOSTS

if TYPE_CHECKING:
    import pandas as pd

    from nexa_sdk.run import Run

__all__ = ["attach", "clusters", "runs"]


def attach(run_id: str, *, cluster: Cluster | str | None = None) -> Run:
    """Find a run again, in any process; the beginning of its id is enough where it is clear.

    Parameters
    ----------
    cluster : Cluster or str, optional
        Where to look for its folder, if this machine's journal does not know it: it was launched on
        another laptop, or the journal is gone.

    Raises
    ------
    RunNotFound
    """
    from nexa_sdk.journal import Journal

    try:
        record = Journal().run(run_id)
    except RunNotFound as error:
        if cluster is None:
            raise RunNotFound(f"{error}. If it was launched elsewhere: attach({run_id!r}, cluster=…) looks for its folder") from error
        from nexa_sdk.finding import find_on

        where = Cluster(cluster) if isinstance(cluster, str) else cluster
        return where.run(find_on(where, run_id))
    return Cluster(record.cluster).run(record)


def clusters() -> pd.DataFrame:
    """List the clusters that have a name; none is asked.

    Returns
    -------
    pandas.DataFrame
        Indexed by cluster: `host`, `runs` (where runs get their folders), `file` (which describes
        it; empty for what needs no description).

    Raises
    ------
    ProfileError
    """
    import pandas as pd

    usual = str(settings.runs_folder())
    rows = {name: (name, usual, "") for name in KNOWN}
    for name, found in profiles().items():
        default = "~/.nexa/runs" if found.host.startswith(("ssh://", HOSTS)) else usual
        rows[name] = (found.host, found.runs or default, str(found.path))
    return pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), name="cluster"), columns=["host", "runs", "file"])


def runs(*, limit: int = 20) -> pd.DataFrame:
    """List the newest runs, as the journal has them; no cluster is asked.

    Returns
    -------
    pandas.DataFrame
        Indexed by run: `cluster`, `trials`, `launched`, `state` (SUBMITTED while no end is written down, UNKNOWN while it
        is not clear what arrived), `folder`.
    """
    import pandas as pd

    from nexa_sdk.journal import Journal

    journal = Journal()
    records = journal.runs(limit=limit)
    columns = {
        "cluster": [record.cluster for record in records],
        "trials": [record.trials for record in records],
        "launched": pd.to_datetime([record.created for record in records], unit="s", utc=True).round("s"),
        "state": [journal.outcome(record.id) for record in records],
        "folder": [record.folder for record in records],
    }
    return pd.DataFrame(columns, index=pd.Index([record.id for record in records], name="run"))
