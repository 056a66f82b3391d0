#!/usr/bin/env python3
"""The BoxVault door's JSON: sign-in, organizations, boxes and what is below them, service accounts, visibility."""

import re

from harness import Checks, Gateway, bytes_of, eventually, sha256

check = Checks()
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
RESERVED = """admin api assets badge blobs boxes download favicon.ico files health hooks keys livez metrics openapi openapi.json
    providers readyz robots.txt runtime runtimes servers uploads""".split()
BAD_NAMES = ["", ".hidden", "-rf", "a..b", "a b", "a/b", "b\u00fccher", "a\0b", "x" * 129]


def fields(label, row, /, **want):
    """These fields of a row have these values."""
    check.equal(label, want, {key: row.get(key, "absent") for key in want})


def stamps(name, row):
    check.that(name, TIME.fullmatch(row.get("createdAt", "")) and TIME.fullmatch(row.get("updatedAt", "")), row.get("createdAt"))


def sign_in(gate):
    def post(route, **body):
        return gate.call("POST", f"/api/auth/{route}", json=body)

    answer = post("signin", username=gate.admin["username"], password=gate.admin["password"])
    check.answers("sign-in", answer, 200)
    row = answer.json()
    fields("sign-in: who", row, username=gate.admin["username"], roles=["ROLE_ADMIN"], isServiceAccount=False, provider="local", stayLoggedIn=False)
    fields("sign-in: where", row["organizations"][0], name=gate.organization, role="owner", isPrimary=True)
    check.that("sign-in: the token is opaque", re.fullmatch("[0-9a-f]{64}", row["accessToken"]), len(row["accessToken"]))
    gate.session = row["accessToken"]
    for name, headers in (("x-access-token", {"x-access-token": gate.session}), ("Bearer", {"Authorization": f"Bearer {gate.session}"})):
        check.answers(f"session as {name}", gate.call("GET", "/api/user/organizations", headers=headers), 200, gate.organization)
    check.answers("refresh", gate.call("POST", "/api/auth/refresh-token", gate.session), 200, "accessToken")
    check.answers("refresh by a service account", gate.call("POST", "/api/auth/refresh-token", gate.key), 403)
    for name, body in (
        ("wrong password", {"username": gate.admin["username"], "password": "wrong"}),
        ("unknown name", {"username": "nobody", "password": "wrong"}),
    ):
        answer = post("signin", **body)
        check.answers(f"sign-in, {name}", answer, 401, "message")
        fields(f"sign-in, {name}: no token", answer.json(), accessToken=None)
    check.answers("sign-in without a password", post("signin", username="x"), 400, "password")
    check.answers("sign-in without a name", post("signin", password="x"), 400, "username")

    for name, answer in (
        ("service account by sign-in", post("signin", username=gate.account["client_id"], password=gate.key)),
        ("service account, the guide's login", post("service-account", clientId=gate.account["client_id"], clientSecret=gate.key)),
    ):
        check.answers(name, answer, 200)
        check.that(f"{name}: JSON", answer.headers["content-type"].startswith("application/json"), answer.headers["content-type"])
        fields(name, answer.json(), username=gate.account["client_id"], isServiceAccount=True, provider="service_account",
               roles=["ROLE_SERVICE_ACCOUNT"], organization=gate.organization)
        check.answers(f"{name}: the token works", gate.call("GET", f"{gate.base}/box", answer.json()["accessToken"]), 200)
    answer = post("service-account", clientId=gate.account["client_id"], clientSecret="wrong")
    check.answers("the guide's login, wrong secret", answer, 401, "message")
    fields("the guide's login, wrong secret: no token", answer.json(), accessToken=None)
    check.answers("the guide's login, no secret", post("service-account", clientId="x"), 400, "clientSecret")
    check.answers("the guide's login, no name", post("service-account", clientSecret="x"), 400, "clientId")
    check.answers("methods", gate.call("GET", "/api/auth/methods"), 200, "methods", "local")
    check.answers("set-up", gate.call("GET", "/api/setup/status"), 200, "setupComplete")
    check.answers("sign-up is closed", post("signup", username="me", email="me@example.com", password="secret123"), 403)


def credentials(gate):
    """Routes that always need a credential tell so before they look anything up."""
    for route in ("/api/organization", "/api/service-accounts", "/api/user/organizations"):
        check.answers(f"GET {route} without a token", gate.call("GET", route), 403, "No token provided!")
        answer = gate.call("GET", route, "0" * 64)
        check.answers(f"GET {route} with a wrong token", answer, 401, "Unauthorized!", "TOKEN_INVALID")
    for org in (gate.organization, "nobody"):
        route = f"/api/organization/{org}/box"
        check.answers(f"POST {route} without a token", gate.call("POST", route, json={"name": "x"}), 403, "No token provided!")
        check.answers(f"POST {route} with a wrong token", gate.call("POST", route, "xyz", json={"name": "x"}), 401, "TOKEN_INVALID")
    for form in (f"Bearer  {gate.key}x", "Bearer", "Basic !!!", "Digest x", gate.key):
        answer = gate.call("POST", f"{gate.base}/box", headers={"Authorization": form}, json={"name": "x"})
        check.answers(f"Authorization: {form[:12]}…", answer, (401, 403))


def organizations(gate):
    token = gate.admin["token"]

    def post(body, who=token):
        return gate.call("POST", "/api/organization", who, json=body)

    answer = post({"organization": "acme", "description": "Acme"})
    check.answers("create", answer, 201)
    fields("created", answer.json(), name="acme", description="Acme")
    stamps("created: times", answer.json())
    gate.acme = answer.json()["id"]
    check.answers("create by field `name`", post({"name": "acme_2"}), 201, "acme_2")
    check.answers("create twice", post({"organization": "acme"}), 400)
    check.answers("create twice but for case", post({"organization": "ACME"}), 400)
    for name in BAD_NAMES:
        check.answers(f"create {name[:12]!r}", post({"organization": name}), 400, "organization")
    for name in RESERVED:
        check.answers(f"create reserved {name}", post({"organization": name}), 400, name)
    check.answers("create without a name", post({}), 400, "organization")
    check.answers("create by a service account", post({"organization": "mine"}, gate.key), 403)
    answer = gate.call("GET", "/api/organization", token)
    check.answers("list", answer, 200)
    check.that("list holds both", {gate.organization, "acme"} <= {row["name"] for row in answer.json()}, [row["name"] for row in answer.json()])
    check.that("list: members and boxes", all("members" in row and "totalBoxes" in row for row in answer.json()), answer.json()[0].keys())
    answer = gate.call("GET", "/api/organization?organization=acm", token)
    check.equal("list by part of the name", {"acme", "acme_2"}, {row["name"] for row in answer.json()})
    answer = gate.call("GET", "/api/organization/acme", token)
    check.answers("read", answer, 200)
    fields("read", answer.json(), name="acme", description="Acme", totalBoxes=0, suspended=False, access_mode="private")
    check.equal("read: its member", [gate.admin["username"]], [m["username"] for m in answer.json()["members"]])
    check.answers("read another", gate.call("GET", "/api/organization/nobody", token), 404)
    answer = gate.call("PUT", "/api/organization/acme_2", token, json={"organization": "acme-3", "description": "new"})
    check.answers("change", answer, 200, "message")
    fields("changed", answer.json()["organization"], name="acme-3", description="new")
    check.answers("its old name is gone", gate.call("GET", "/api/organization/acme_2", token), 404)
    check.answers("change to a taken name", gate.call("PUT", "/api/organization/acme-3", token, json={"organization": "acme"}), (400, 409))
    answer = gate.call("PUT", "/api/organization/acme/access-mode", token, json={"accessMode": "request_to_join"})
    check.answers("access mode", answer, 200)
    fields("access mode", answer.json(), accessMode="request_to_join")
    answer = gate.call("GET", "/api/organizations/discover")
    check.answers("discover", answer, 200)
    check.equal("discover shows the open one alone", ["acme"], [row["name"] for row in answer.json()])
    check.answers("an unknown mode", gate.call("PUT", "/api/organization/acme/access-mode", token, json={"accessMode": "wild"}), 400, "accessMode")
    check.answers("delete", gate.call("DELETE", "/api/organization/acme-3", token), 200, "message")
    check.answers("delete again", gate.call("DELETE", "/api/organization/acme-3", token), 404)


def boxes(gate):
    box = f"{gate.base}/box"
    answer = gate.call("GET", box, gate.key)
    check.equal("no boxes yet", [200, []], [answer.status_code, answer.json()])
    body = {"name": "demo", "description": "*Demo*", "shortDescription": "short", "githubRepo": "acme/demo", "isPublic": False}
    answer = gate.call("POST", box, gate.key, json=body)
    check.answers("create", answer, 201)
    fields("created", answer.json(), name="demo", description="*Demo*", isPublic=False, published=False)
    stamps("created: times", answer.json())
    for name in ("demo", "DEMO"):
        check.answers(f"create {name} twice", gate.call("POST", box, gate.key, json={"name": name}), 400)
    for name in BAD_NAMES:
        check.answers(f"create {name[:12]!r}", gate.call("POST", box, gate.key, json={"name": name}), 400, "box")
    check.answers("create without a name", gate.call("POST", box, gate.key, json={"description": "x"}), 400, "name")
    check.answers("a short description that is long", gate.call("POST", box, gate.key, json={"name": "x", "shortDescription": "y" * 256}), 400, "shortDescription")
    answer = gate.call("GET", f"{box}/demo", gate.key)
    check.answers("read", answer, 200)
    fields("read", answer.json(), name="demo", description="*Demo*", shortDescription="short", githubRepo="acme/demo", readme=None, versions=[])
    fields("read: its organization", answer.json()["organization"], name=gate.organization)
    check.equal("read with /metadata", answer.json(), gate.call("GET", f"{box}/demo/metadata", gate.key).json())
    check.answers("read another", gate.call("GET", f"{box}/absent", gate.key), 404)
    check.answers("unknown organization", gate.call("GET", "/api/organization/nobody/box"), 404)
    answer = gate.call("PUT", f"{box}/demo", gate.key, json={"name": "renamed", "readme": "# Hi"})
    check.answers("rename", answer, 200)
    fields("renamed keeps the rest", answer.json(), name="renamed", readme="# Hi", description="*Demo*")
    check.answers("its old name is gone", gate.call("GET", f"{box}/demo", gate.key), 404)
    check.answers("delete", gate.call("DELETE", f"{box}/renamed", gate.key), 200, "message")
    check.answers("delete again", gate.call("DELETE", f"{box}/renamed", gate.key), 404)


def tree(gate):
    """Versions, providers and architectures have one grammar, one set of answers."""
    gate.call("POST", f"{gate.base}/box", gate.key, json={"name": "tree"})
    place = f"{gate.base}/box/tree"
    for level, name, other, key in (
        ("version", "1.0.0", "2024_01", "versionNumber"),
        ("provider", "virtualbox", "vmware_desktop", "name"),
        ("architecture", "amd64", "arm64", "name"),
    ):
        place += f"/{level}"
        answer = gate.call("POST", place, gate.key, json={key: name, "description": "first"})
        check.answers(f"{level}: create", answer, 201)
        fields(f"{level}: created", answer.json(), **{key: name, "description": "first"})
        stamps(f"{level}: times", answer.json())
        check.answers(f"{level}: create another", gate.call("POST", place, gate.key, json={key: other}), 201, other)
        check.answers(f"{level}: create twice", gate.call("POST", place, gate.key, json={key: name}), 409)
        for bad in BAD_NAMES:
            check.answers(f"{level}: create {bad[:12]!r}", gate.call("POST", place, gate.key, json={key: bad}), 400)
        answer = gate.call("GET", place, gate.key)
        check.equal(f"{level}: list", [name, other], [row[key] for row in answer.json()])
        answer = gate.call("GET", f"{place}/{name}", gate.key)
        check.answers(f"{level}: read", answer, 200)
        fields(f"{level}: read", answer.json(), **{key: name, "description": "first"})
        check.answers(f"{level}: read another", gate.call("GET", f"{place}/absent", gate.key), 404)
        answer = gate.call("PUT", f"{place}/{other}", gate.key, json={key: f"{other}.b", "description": "changed"})
        check.answers(f"{level}: change", answer, 200)
        fields(f"{level}: changed", answer.json(), **{key: f"{other}.b", "description": "changed"})
        check.answers(f"{level}: delete", gate.call("DELETE", f"{place}/{other}.b", gate.key), 200, "message")
        check.answers(f"{level}: delete again", gate.call("DELETE", f"{place}/{other}.b", gate.key), 404)
        check.answers(f"{level}: create without a token", gate.call("POST", place, json={key: "x"}), 403, "No token provided!")
        check.answers(f"{level}: stranger's list of a private box", gate.call("GET", place), 404)
        place += f"/{name}"
    versions = f"{gate.base}/box/tree/version"
    answer = gate.call("PUT", f"{versions}/1.0.0", gate.key, json={"release_notes": "n", "deprecated": True, "deprecation_reason": "old"})
    fields("version: notes and deprecation", answer.json(), releaseNotes="n", deprecated=True, deprecationReason="old")
    check.answers("version: a tag and its number are one", gate.call("POST", versions, gate.key, json={"version": "v1.0.0"}), 409)
    check.answers("version: read by its tag", gate.call("GET", f"{versions}/v1.0.0", gate.key), 200, "1.0.0")
    for missing, route in (("box", f"{gate.base}/box/absent/version"), ("version", f"{versions}/9/provider"), ("provider", f"{versions}/1.0.0/provider/absent/architecture")):
        answer = gate.call("POST", route, gate.key, json={"name": "x", "versionNumber": "1"})
        check.answers(f"create below an absent {missing}", answer, 404, missing)
    arches = f"{versions}/1.0.0/provider/virtualbox/architecture"
    answer = gate.call("POST", arches, gate.key, json={"name": "arm64", "defaultBox": True})
    fields("architecture: the new default", answer.json(), defaultBox=True)
    answer = gate.call("GET", arches, gate.key)
    check.equal("architecture: one default", [("amd64", False), ("arm64", True)], [(row["name"], row["defaultBox"]) for row in answer.json()])
    for route in (arches, f"{versions}/1.0.0/provider", versions, f"{gate.base}/box"):
        check.answers(f"delete all of {route.rsplit('/', 1)[1]}", gate.call("DELETE", route, gate.admin["token"]), 200, "message")
        answer = gate.call("GET", route, gate.admin["token"])
        check.equal("and none is left", [200, []], [answer.status_code, answer.json()])


def files(gate):
    one, two = bytes_of("one", 300_000), bytes_of("two", 310_000)
    gate.upload(one, box="files")
    gate.upload(two, box="files", architecture="arm64")
    answer = gate.call("GET", f"{gate.base}/box", gate.key)
    rows = [row for row in answer.json() if row["name"] == "files"]
    check.equal("an uploaded box is listed to the account that sent it", 1, len(rows))
    fields("made by an upload: private and published", rows[0], isPublic=False, published=True)
    version = rows[0]["versions"][0]
    check.equal("its version", "1.0.0", version["versionNumber"])
    arches = version["providers"][0]["architectures"]
    check.equal("the first architecture is the default", [("amd64", True), ("arm64", False)], [(a["name"], a["defaultBox"]) for a in arches])
    file = arches[0]["files"][0]
    fields("its file", file, fileName="vagrant.box", checksum=sha256(one), checksumType="SHA256", fileSize=len(one), downloadCount=0)
    public = f"{gate.base}/box/files"
    check.answers("make it public", gate.call("PUT", public, gate.key, json={"isPublic": True}), 200)
    check.answers("anyone reads it", gate.call("GET", public), 200, sha256(one))
    check.answers("anyone lists it", gate.call("GET", f"{gate.base}/box"), 200, sha256(one))
    check.answers("anyone discovers it", gate.call("GET", "/api/discover"), 200, '"files"')
    check.answers("unpublish it", gate.call("PUT", public, gate.key, json={"published": False}), 200)
    check.equal("strangers' list without it", [], gate.call("GET", f"{gate.base}/box").json())
    check.answers("but it stays readable", gate.call("GET", public), 200)
    check.answers("rename its version", gate.call("PUT", f"{public}/version/1.0.0", gate.key, json={"versionNumber": "1.5.0"}), 200)
    check.equal("its bytes come under the new name", sha256(one), sha256(gate.download(box="files", version="1.5.0").content))
    metadata = gate.call("GET", f"/{gate.organization}/files", headers={"Accept": "application/json"}).json()
    check.equal("Vagrant hears of the new name", ["1.5.0"], [v["version"] for v in metadata["versions"]])
    check.equal("the default architecture comes last", ["arm64", "amd64"], [p["architecture"] for p in metadata["versions"][0]["providers"]])
    for provider in metadata["versions"][0]["providers"]:
        got = gate.call("GET", provider["url"])
        check.equal(f"{provider['architecture']}: address and digest agree", ["sha256", provider["checksum"]], [provider["checksum_type"], sha256(got.content)])
    gate.call("POST", f"{public}/version", gate.key, json={"version": "9.0.0"})
    metadata = gate.call("GET", f"/{gate.organization}/files", headers={"Accept": "application/json"}).json()
    check.equal("a version without a file is not listed", ["1.5.0"], [v["version"] for v in metadata["versions"]])
    check.answers("make it private", gate.call("PUT", public, gate.key, json={"isPublic": False}), 200)
    hidden = eventually(5, lambda: gate.call("GET", metadata["versions"][0]["providers"][0]["url"]).status_code == 404)
    check.that("a stranger no longer gets it, by no address", hidden, gate.call("GET", public).status_code)


def roles(gate):
    """What a member, an administrator of the organization, an owner and an outsider may do."""
    who = {}
    for name, role in (("molly", "member"), ("adam", "admin"), ("olga", "owner"), ("oscar", None)):
        body = {"username": name, "email": f"{name}@example.com", "password": f"{name}'s secret", "role": "user"}
        if role:
            body |= {"organization": gate.organization, "organization_role": role}
        check.answers(f"make {name}", gate.call("POST", "/api/admin/users", gate.admin["token"], json=body), 201, name)
        answer = gate.call("POST", "/api/auth/signin", json={"username": name, "password": f"{name}'s secret"})
        check.answers(f"{name} signs in", answer, 200, "ROLE_USER")
        who[name] = answer.json()["accessToken"]
    answer = gate.call("POST", "/api/admin/users", who["olga"], json={"username": "x", "password": "y"})
    check.answers("an owner makes no users", answer, 403)
    check.answers("molly makes a box", gate.call("POST", f"{gate.base}/box", who["molly"], json={"name": "mollys"}), 201)
    check.answers("adam makes a box", gate.call("POST", f"{gate.base}/box", who["adam"], json={"name": "adams"}), 201)
    data = bytes_of("roles", 100_000)
    # Who, on whose box: read, change, upload.
    for name, box, read, change in (
        ("molly", "mollys", 200, 200),
        ("molly", "adams", 200, 403),
        ("adam", "mollys", 200, 200),
        ("olga", "mollys", 200, 200),
        ("oscar", "mollys", 404, 404),
    ):
        place = f"{gate.base}/box/{box}"
        check.answers(f"{name} reads {box}", gate.call("GET", place, who[name]), read)
        check.answers(f"{name} changes {box}", gate.call("PUT", place, who[name], json={"description": name}), change)
        check.answers(f"{name} uploads to {box}", gate.call("POST", gate.path(box=box), who[name], data=data), change)
    check.answers("oscar publishes nothing", gate.call("POST", gate.path(box="oscars"), who["oscar"], data=data), (403, 404))
    check.answers("oscar makes no box", gate.call("POST", f"{gate.base}/box", who["oscar"], json={"name": "oscars"}), (403, 404))
    check.equal("oscar lists nothing", [], gate.call("GET", f"{gate.base}/box", who["oscar"]).json())
    check.answers("molly does not rename the organization", gate.call("PUT", gate.base, who["molly"], json={"description": "x"}), 403)
    check.answers("adam does not delete it", gate.call("DELETE", gate.base, who["adam"]), 403)
    check.answers("adam does not make owners", gate.call("PUT", f"{gate.base}/members/molly", who["adam"], json={"role": "owner"}), 403)
    check.answers("adam makes molly an administrator", gate.call("PUT", f"{gate.base}/members/molly", who["adam"], json={"role": "admin"}), 200)
    changed = gate.call("PUT", f"{gate.base}/box/adams", who["molly"], json={"description": "now she may"})
    check.answers("molly changes adam's box", changed, 200)
    check.answers("adam ends it", gate.call("DELETE", f"{gate.base}/members/molly", who["adam"]), 200)
    gone = eventually(3, lambda: gate.call("GET", f"{gate.base}/box/adams", who["molly"]).status_code == 404)
    check.that("molly no longer sees private boxes", gone, "404")
    check.answers("suspend oscar", gate.call("PUT", "/api/admin/users/oscar", gate.admin["token"], json={"suspended": True}), 200)
    check.answers("oscar's session is refused", gate.call("GET", "/api/user/organizations", who["oscar"]), (401, 403))
    check.answers("oscar no longer signs in", gate.call("POST", "/api/auth/signin", json={"username": "oscar", "password": "oscar's secret"}), 403)


def service_accounts(gate):
    token = gate.admin["token"]

    def post(who=token, **body):
        return gate.call("POST", "/api/service-accounts", who, json=body)

    check.answers("create without an organization", post(description="x"), 400, "organizationId")
    check.answers("create by a service account", post(gate.key, organizationId=gate.acme), 403)
    check.answers("create for longer than allowed", post(organizationId=gate.acme, expirationDays=100_000), 400, "expirationDays")
    answer = post(organizationId=gate.acme, description="CI", expirationDays=30)
    check.answers("create", answer, 201)
    made = answer.json()
    check.that("its name", re.fullmatch(re.escape(gate.admin["username"]) + "-[0-9a-f]{8}", made["username"]), made["username"])
    check.that("its key", re.fullmatch("[0-9a-f]{64}", made["token"]), len(made["token"]))
    fields("its organization", made, organization_id=gate.acme, description="CI")
    check.equal("without a date it does not expire", None, post(organizationId=gate.acme).json().get("expiresAt"))
    answer = gate.call("GET", "/api/service-accounts", token)
    check.that("list, without keys", all("token" not in row for row in answer.json()), len(answer.json()))
    check.that("list holds it", made["id"] in [row["id"] for row in answer.json()], made["id"])
    check.answers("where one can be made", gate.call("GET", "/api/service-accounts/organizations", token), 200, "acme", gate.organization)

    # A key is bound to the organization that it was made for, whoever made it.
    data = bytes_of("acme", 200_000)
    theirs = f"{gate.url}/api/organization/acme/box/demo/version/1.0.0/provider/virtualbox/architecture/amd64/file"
    check.answers("it uploads to its own", gate.call("POST", theirs, made["token"], data=data), 200)
    gate.upload(data, box="own")
    check.answers("it does not upload to another", gate.call("POST", gate.path(box="own"), made["token"], data=data), (403, 404))
    check.answers("nor make boxes there", gate.call("POST", f"{gate.base}/box", made["token"], json={"name": "x"}), (403, 404))
    check.answers("nor see its private boxes", gate.call("GET", f"{gate.base}/box/own", made["token"]), 404)
    check.equal("nor list them", [], gate.call("GET", f"{gate.base}/box", made["token"]).json())
    check.answers("nor download them", gate.call("GET", gate.path(box="own") + "/download", made["token"]), 404)
    check.answers("nor at Vagrant's door", gate.call("GET", f"/{gate.organization}/own", made["token"]), 404)
    absent = gate.call("GET", f"{gate.base}/box/absent", made["token"])
    check.equal("a hidden box reads like an absent one", absent.text.replace("absent", "own"), gate.call("GET", f"{gate.base}/box/own", made["token"]).text)
    check.answers("the administrator's own token sees it", gate.call("GET", theirs + "/info", token), 200, sha256(data))

    check.answers("delete", gate.call("DELETE", f"/api/service-accounts/{made['id']}", token), 200, "message")
    check.answers("delete again", gate.call("DELETE", f"/api/service-accounts/{made['id']}", token), 404)
    dead = eventually(3, lambda: gate.call("POST", theirs, made["token"], data=data).status_code == 401)
    check.that("a deleted key is dead within seconds", dead, "401")


with Gateway() as gate:
    check.scenes(gate, sign_in, credentials, organizations, boxes, tree, files, roles, service_accounts)
check.finish()
