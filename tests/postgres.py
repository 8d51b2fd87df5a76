"""A PostgreSQL server for tests: of this machine's packages, on loopback, with a password."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

INSTALL = ("apt-get", "install", "-y", "-q", "--no-install-recommends", "postgresql")
USER = "kblocks"


def binaries() -> Path | None:
    """The folder of `initdb`, from the newest version of Debian's package or from the path."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3])
    )
    named = shutil.which("initdb")
    return found[-1].parent if found else Path(named).parent if named else None


def installed() -> Path | str:
    """The folder of the binaries; where they lack and cannot be installed, the reason."""
    found = binaries()
    if found is not None:
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"PostgreSQL is not installed: {' '.join(INSTALL)}"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (("apt-get", "update", "-q"), INSTALL):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            told = (done.stderr.strip() or done.stdout.strip()).splitlines()
            return f"PostgreSQL cannot be installed: {told[-1] if told else command}"
    return binaries() or "PostgreSQL was installed, but initdb is not where Debian has it"


@dataclass
class Server:
    """A server with one user and one database, both of the name `kblocks`."""

    binaries: Path
    folder: Path
    port: int
    password: str
    account: str | None  # whom it runs as; None is who runs this

    def url(self, password: str | None = None, user: str = USER) -> str:
        """The URL for Optuna, with the password in it."""
        shown = self.password if password is None else password
        return f"postgresql+psycopg://{user}:{shown}@127.0.0.1:{self.port}/{USER}"

    def start(self) -> None:
        """Starts it, and returns when it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-w", "-t", "60", "-D", self._data, "-l", log, "-o", options, "start")

    def crash(self) -> None:
        """Ends it at once, as a loss of power would: what runs in it is lost."""
        self._run("pg_ctl", "-w", "-D", self._data, "-m", "immediate", "stop")

    def make(self) -> None:
        """Makes its files."""
        file = self.folder / "password"
        file.write_text(self.password)
        if self.account is not None:
            for path in (self.folder, file):
                shutil.chown(path, self.account)
        known = ("-A", "scram-sha-256", "-U", USER, "--pwfile", str(file), "-E", "UTF8")
        self._run("initdb", "-D", self._data, "--no-locale", *known)
        file.unlink()

    def query(self, text: str) -> list[tuple[object, ...]]:
        """The rows of a query, past Optuna."""
        import psycopg

        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=self.password, dbname=USER
        ) as connection:
            return connection.execute(text).fetchall()  # type: ignore[arg-type]

    def make_database(self) -> None:
        """The database, beside the one of PostgreSQL's own."""
        import psycopg

        connection = psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            password=self.password,
            dbname="postgres",
            autocommit=True,
        )
        with connection:
            connection.execute(f"CREATE DATABASE {USER}")

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _run(self, command: str, *arguments: str) -> None:
        # What the server inherits it holds open: a pipe here would be read for ever.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [str(self.binaries / command), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                user=self.account,
                group=None if self.account is None else pwd.getpwnam(self.account).pw_gid,
                extra_groups=None if self.account is None else (),
                timeout=120,
            )
            output.seek(0)
            assert done.returncode == 0, output.read().decode()


@contextmanager
def running(binaries: Path, password: str) -> Iterator[Server]:
    """A server of one's own; its files are gone afterwards."""
    # `initdb` refuses root: the package brings a user, who must be able to enter the folder.
    account = "postgres" if os.geteuid() == 0 else None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="kblocks-postgresql-", dir="/tmp"))
    server = Server(binaries, folder, port, password, account)
    try:
        server.make()
        server.start()
        server.make_database()
        yield server
    finally:
        if (folder / "data/postmaster.pid").exists():
            server.crash()
        shutil.rmtree(folder)
