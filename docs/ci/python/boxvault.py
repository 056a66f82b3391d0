#!/usr/bin/env python3
"""Uploads a box and lists boxes; streams from the disk and goes on after a cut. Needs `requests`.

    export BOXVAULT_URL=... BOXVAULT_CLIENT_ID=... BOXVAULT_CLIENT_SECRET=...
    python3 boxvault.py ubuntu.box myorg ubuntu-20.04 1.0.0 virtualbox amd64
"""

import hashlib
import os
import sys
import time

import requests


class BoxVaultClient:
    def __init__(self, base_url, client_id, client_secret):
        self.base_url = base_url.rstrip("/")
        self.session = requests.Session()
        login = {"clientId": client_id, "clientSecret": client_secret}
        answer = self.session.post(f"{self.base_url}/api/auth/service-account", json=login, timeout=60)
        answer.raise_for_status()
        self.session.headers["x-access-token"] = answer.json()["accessToken"]

    def upload_box(self, path, org, box, version, provider, arch, tries=8):
        place = f"box/{box}/version/{version}/provider/{provider}/architecture/{arch}/file/upload"
        url = f"{self.base_url}/api/organization/{org}/{place}"
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            for attempt in range(tries):
                offset = self._offset(url, size)
                file.seek(offset)
                headers = {"x-checksum": digest, "x-checksum-type": "SHA256"}
                if offset:
                    headers["Content-Range"] = f"bytes {offset}-{size - 1}/{size}"
                try:
                    # An open file is sent from where it stands, piece by piece. The answer comes when all is stored.
                    method = "PUT" if offset else "POST"
                    answer = self.session.request(method, url, data=file, headers=headers, timeout=(30, 600))
                except requests.ConnectionError:
                    wait = 2**attempt
                else:
                    # What rested may have been of another file: 409 or 422, and then nothing rests any more.
                    again = (409, 422, 429, 500, 502, 503, 504) if offset else (429, 500, 502, 503, 504)
                    if answer.status_code not in again:
                        answer.raise_for_status()
                        return answer.json()
                    wait = int(answer.headers.get("Retry-After", 2**attempt))
                time.sleep(min(wait, 60))
        raise TimeoutError(f"{path} was not uploaded in {tries} tries")

    def _offset(self, url, size):
        """How much of an upload that was cut is there already."""
        try:
            answer = self.session.get(url, timeout=60)
            rests = [u for u in answer.json()["uploads"] if u["kind"] == "raw" and u["fileSize"] == size]
        except (requests.RequestException, KeyError):
            return 0
        return rests[0]["offset"] if rests else 0

    def list_boxes(self, org):
        answer = self.session.get(f"{self.base_url}/api/organization/{org}/box", timeout=60)
        answer.raise_for_status()
        return answer.json()


if __name__ == "__main__":
    file, org, *place = sys.argv[1:]
    client = BoxVaultClient(*(os.environ[f"BOXVAULT_{name}"] for name in ("URL", "CLIENT_ID", "CLIENT_SECRET")))
    print(client.upload_box(file, org, *place)["message"])
    print(f"{org} has {len(client.list_boxes(org))} boxes")
