"""Makes a container in an Azure store: azure_container.py ENDPOINT ACCOUNT KEY CONTAINER."""

import base64
import email.utils
import hashlib
import hmac
import sys
import urllib.error
import urllib.request


def main() -> None:
    endpoint, account, key, container = sys.argv[1:]
    date, version = email.utils.formatdate(usegmt=True), "2021-12-02"
    # The SharedKey scheme: verb, eleven headers that are empty here, the x-ms headers, the resource.
    text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n"
    # The emulator has the account in its path, which therefore stands twice.
    text += f"/{account}/{account}/{container}\nrestype:container"
    signature = base64.b64encode(hmac.digest(base64.b64decode(key), text.encode(), hashlib.sha256)).decode()
    request = urllib.request.Request(
        f"{endpoint}/{account}/{container}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": version,
            "Authorization": f"SharedKey {account}:{signature}",
        },
    )
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        sys.exit(f"{error}: {error.read().decode(errors='replace')}")


main()
