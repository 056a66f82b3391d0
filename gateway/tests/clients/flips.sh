#!/usr/bin/env bash
# One flipped bit each in so many objects (1,000) of a bucket, some of them read before: none may be served whole.
# Run by `.ci/long flips`; that of files is a part of `nginx_numbers.py`.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$CLIENTS/garage.sh"
cd "$WORK"

start_garage
of_garage flips/
start_gateway
"$TOOLS/aws/bin/python3" - "${1:-1000}" <<END
import http.client, random, sys
import awscli.botocore.session as botocore  # as aws brings it along

COUNT = int(sys.argv[1])
HOST = "${URL#http://}"
session = botocore.get_session()
s3 = session.create_client("s3", "garage", endpoint_url="$ENDPOINT", aws_access_key_id="$S3_KEY",
                           aws_secret_access_key="$S3_SECRET")


def objects():
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="$BUCKET", Prefix="flips/blobs/")
    return {entry["Key"] for page in pages for entry in page.get("Contents", [])}


def ask(method, number, rest, body=None):
    """Status and what came of the body, however it ended."""
    connection = http.client.HTTPConnection(HOST, timeout=60)
    path = f"/api/organization/$ORG/box/flips/version/1.{number}.0/provider/virtualbox/architecture/amd64/file{rest}"
    connection.request(method, path, body, {"Authorization": "Bearer $CLIENT_SECRET"})
    answer = connection.getresponse()
    try:
        return answer.status, answer.read()
    except http.client.IncompleteRead as cut:
        return answer.status, cut.partial
    except ConnectionResetError:
        return answer.status, b""
    finally:
        connection.close()


rng = random.Random(20261129)
told = {"refused": 0, "broken": 0, "right, from memory": 0, "served wrong": 0}
known = objects()
for number in range(COUNT):
    data = rng.randbytes(rng.randrange(1 << 10, 3 << 20))
    status, said = ask("PUT", number, "/upload", data)
    assert status == 200, (status, said)
    (key,) = objects() - known
    if number % 2:
        assert ask("GET", number, "/download") == (200, data)
    at = rng.randrange(len(data))
    bad = bytearray(data)
    bad[at] ^= 1 << rng.randrange(8)
    s3.put_object(Bucket="$BUCKET", Key=key, Body=bytes(bad))
    status, body = ask("GET", number, "/download")
    if status == 503:
        told["refused"] += 1
    elif body == data:
        told["right, from memory"] += 1
    elif data.startswith(body):
        told["broken"] += 1
    else:
        told["served wrong"] += 1
    # Room for the others.
    s3.delete_object(Bucket="$BUCKET", Key=key)
print(told)
sys.exit(told["served wrong"] > 0 or sum(told.values()) != COUNT)
END
