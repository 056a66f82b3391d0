"""Hetzner Cloud's API v1, as much of it as an adapter asks."""
from cloud import Cloud, Refused, now

LOCATIONS = [
    {"id": 1, "name": "fsn1", "description": "Falkenstein DC Park 1", "country": "DE", "city": "Falkenstein", "network_zone": "eu-central"},
    {"id": 4, "name": "ash", "description": "Ashburn, VA", "country": "US", "city": "Ashburn, VA", "network_zone": "us-east"},
]


def kind(name, memory, architecture="x86", deprecation=None):
    money = {"net": "3.9900", "gross": "4.7481000000000000"}
    hour = {"net": "0.0064000000", "gross": "0.0076160000000000"}
    return {
        "id": len(name), "name": name, "description": name.upper(), "category": "cost_optimized", "cores": 2, "memory": memory,
        "disk": 40, "cpu_type": "shared", "architecture": architecture,
        "prices": [{"location": place["name"], "price_hourly": hour, "price_monthly": money,
                    "included_traffic": 21990232555520} for place in LOCATIONS],
        "locations": [{"id": place["id"], "name": place["name"], "available": True, "deprecation": deprecation} for place in LOCATIONS],
    }


KINDS = [kind(f"ccx{n}", 8.0 * n) for n in range(1, 55)] + [kind("cx23", 4.0), kind("cax11", 4.0, "arm")]
KINDS += [kind("cx22", 4.0, deprecation={"announced": "2025-10-16T00:00:00Z"})]


def paged(name, items, query):
    page, per = int(query.get("page", 1)), min(int(query.get("per_page", 25)), 50)
    next_page = page + 1 if page * per < len(items) else None
    pagination = {"page": page, "per_page": per, "next_page": next_page, "total_entries": len(items)}
    return 200, {name: items[(page - 1) * per:page * per], "meta": {"pagination": pagination}}


class Hetzner(Cloud):
    prefix = "v1"

    def error(self, status, message, more):
        codes = {401: "unauthorized", 404: "not_found", 409: "uniqueness_error", 422: "invalid_input", 429: "rate_limit_exceeded"}
        return {"error": {"code": codes.get(status, "error"), "message": message, "details": more or None}}

    def locations(self, query):
        return paged("locations", LOCATIONS, query)

    def server_types(self, query):
        return paged("server_types", KINDS, query)

    def pricing(self, query):
        return 200, {"pricing": {"currency": "EUR", "vat_rate": "19.000000"}}

    def list_keys(self, query):
        return paged("ssh_keys", list(self.keys.values()), query)

    def add_key(self, body, query):
        if any(key["public_key"].split()[:2] == body["public_key"].split()[:2] for key in self.keys.values()):
            raise Refused(409, "SSH key not unique")
        key = {"id": self.new_id(), "name": body["name"], "fingerprint": "b7:2f", "public_key": body["public_key"],
               "labels": body["labels"], "created": "2026-01-30T23:55:00+00:00"}
        self.keys[key["id"]] = key
        return 201, {"ssh_key": key}

    def get_key(self, id, query):
        return 200, {"ssh_key": self.one(self.keys, id)}

    def delete_key(self, id, query):
        self.one(self.keys, id)
        del self.keys[id]
        return 204, None

    def order(self, body, query):
        bad = lambda field: Refused(422, "invalid input", fields=[{"name": field, "messages": [f"{body[field]} does not exist"]}])
        if body["server_type"] not in [known["name"] for known in KINDS]:
            raise bad("server_type")
        if body["location"] not in [place["name"] for place in LOCATIONS]:
            raise bad("location")
        if any(key not in self.keys for key in body["ssh_keys"]):
            raise bad("ssh_keys")
        if any(server["name"] == body["name"] for server in self.servers.values()):
            raise Refused(409, "server name is already used")
        assert body["image"] == "ubuntu-22.04" and body["start_after_create"] is True
        server = {
            "id": self.new_id(), "name": body["name"], "status": "initializing", "labels": body["labels"], "locked": False,
            "public_net": {"ipv4": {"ip": "203.0.113.7"}, "ipv6": {"ip": "2001:db8::/64"}}, "private_net": [],
            "created": now() + "+00:00",
        }
        self.servers[server["id"]] = server
        action = {"id": 1, "status": "running", "progress": 0, "error": None}
        return 201, {"server": server, "action": action, "root_password": None, "next_actions": []}

    def list_servers(self, query):
        return paged("servers", list(self.servers.values()), query)

    def query(self, id, query):
        server = self.one(self.servers, id)
        told = dict(server)
        steps = {"initializing": "starting", "starting": "running"}
        server["status"] = steps.get(server["status"], server["status"])
        return 200, {"server": told}

    def cancel(self, id, query):
        self.one(self.servers, id)
        del self.servers[id]
        return 200, {"action": {"id": 2, "status": "running"}}

    def reboot(self, id, body, query):
        self.one(self.servers, id)
        return 201, {"action": {"id": 3, "status": "running"}}

    def rename(self, id, body, query):
        self.one(self.servers, id)["name"] = body["name"]
        return 200, {"server": self.servers[id]}

    def tag(self, id, value):
        self.servers[id]["labels"] = {"Nanobox": value}

    routes = [
        ("GET", ["locations"], locations), ("GET", ["server_types"], server_types), ("GET", ["pricing"], pricing),
        ("GET", ["ssh_keys"], list_keys), ("POST", ["ssh_keys"], add_key), ("GET", ["ssh_keys", None], get_key),
        ("DELETE", ["ssh_keys", None], delete_key), ("GET", ["servers"], list_servers), ("POST", ["servers"], order),
        ("GET", ["servers", None], query), ("DELETE", ["servers", None], cancel), ("PUT", ["servers", None], rename),
        ("POST", ["servers", None, "actions", "reboot"], reboot),
    ]
