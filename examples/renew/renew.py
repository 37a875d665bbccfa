"""Renews the credential in a creds file over NATS. Arguments: server URL, creds file."""

import asyncio, base64, json, os, re, sys

import nats


async def main(url, path):
    text = open(path).read()
    old = re.search(r"-----BEGIN NATS USER JWT-----\s+(\S+)", text)[1]
    payload = old.split(".")[1]
    user = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]
    nc = await nats.connect(url, user_credentials=path, inbox_prefix=f"_INBOX.{user}")
    answer = await nc.request(f"authority.renew.{user}", timeout=10)
    await nc.close()
    if answer.headers and "Nats-Service-Error-Code" in answer.headers:
        sys.exit(answer.data.decode())
    new = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(new, text.replace(old, answer.data.decode()).encode())
    os.fsync(new)
    os.replace(f"{path}.new", path)


asyncio.run(main(*sys.argv[1:]))
