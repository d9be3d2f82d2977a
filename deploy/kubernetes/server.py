"""A real API server of Kubernetes on this machine, with its etcd: it validates, defaults, admits and stores. There is no kubelet, so no pod ever runs."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from deploy.kafka.broker import Failed, free_ports, last_lines
from deploy.kubernetes.programs import tool

STARTS = 90  # seconds in which it is ready or has failed


@dataclass
class ApiServer:
    """Keeps everything below `folder`; `kubeconfig` is an administrator's."""

    folder: Path
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> ApiServer:
        """It is ready. Raises Missing where a program was not built, Failed with what it said last."""
        etcd, server = tool("etcd"), tool("kube-apiserver")
        client, peer, self.port = free_ports(3)
        self._write_keys()
        try:
            stores, peers = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
            here = {"data-dir": self.folder / "etcd", "listen-client-urls": stores, "advertise-client-urls": stores, "listen-peer-urls": peers}
            alone = {"initial-advertise-peer-urls": peers, "initial-cluster": f"default={peers}"}
            self._launch(etcd, here | alone | {"unsafe-no-fsync": "true", "log-level": "warn"})
            keys = {"service-account-key-file": self.folder / "sa.pub", "service-account-signing-key-file": self.folder / "sa.key"}
            issuer = {"service-account-issuer": "https://kubernetes.default.svc", "service-cluster-ip-range": "10.0.0.0/24"}
            port = {"bind-address": "127.0.0.1", "secure-port": self.port, "cert-dir": self.folder / "certs"}
            who = {"token-auth-file": self.folder / "tokens.csv", "authorization-mode": "RBAC", "disable-admission-plugins": "ServiceAccount"}
            self._launch(server, {"etcd-servers": stores} | keys | issuer | port | who)
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.kill()  # nobody wants what it holds
            process.wait()

    def ask(self, method: str, path: str, body: Any = None, *, kind: str = "application/json", **query: str) -> Any:
        """What it answers; raises Failed with its own words where it refuses."""
        content = None if body is None else json.dumps(body)
        answer = self.http.request(method, path, content=content, headers={"Content-Type": kind}, params=query)
        if answer.status_code >= 400:
            raise Failed(f"{method} {path}: {answer.json().get('message', answer.text)}")
        return answer.json()

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    def _write_keys(self) -> None:
        key = rsa.generate_private_key(65537, 2048)
        (self.folder / "sa.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
        (self.folder / "sa.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        (self.folder / "tokens.csv").write_text(f"{self.token},admin,admin,system:masters\n")
        address = f"https://127.0.0.1:{self.port}"
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": address, "certificate-authority": str(self.folder / "certs" / "apiserver.crt")}}],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "admin"}}],
        }  # fmt: skip
        self.kubeconfig.write_text(json.dumps(config))
        self.kubeconfig.chmod(0o600)
        bearer = {"Authorization": f"Bearer {self.token}"}
        self.http = httpx2.Client(base_url=address, headers=bearer, verify=False, trust_env=False, timeout=30)  # loopback, and made a moment ago

    def _launch(self, program: Path, options: Mapping[str, object]) -> None:
        command = [program, *(f"--{name}={value}" for name, value in options.items())]
        with (self.folder / f"{program.name}.log").open("wb") as out:
            self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.folder))

    def _await_ready(self) -> None:
        end = time.monotonic() + STARTS
        while True:
            try:
                if self.http.get("/readyz").status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            for process, name in zip(self.processes, ("etcd", "kube-apiserver"), strict=True):
                if process.poll() is not None or time.monotonic() > end:
                    raise Failed(f"{name} did not start: {last_lines((self.folder / f'{name}.log').read_text())}")
            time.sleep(0.1)
