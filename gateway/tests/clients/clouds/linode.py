"""Linode's API v4, as much of it as an adapter asks."""
from cloud import Cloud, Refused, now

REGIONS = [
    {"id": "us-east", "label": "Newark, NJ", "country": "us", "capabilities": ["Linodes", "NodeBalancers"], "status": "ok"},
    {"id": "br-gru", "label": "Sao Paulo, BR", "country": "br", "capabilities": ["Linodes"], "status": "ok"},
    {"id": "de-obj", "label": "Objects", "country": "de", "capabilities": ["Object Storage"], "status": "ok"},
]


def kind(id, name, memory, monthly, dearer=()):
    return {
        "id": id, "label": id, "class": name, "memory": memory, "disk": 25600, "transfer": 1000, "vcpus": 1,
        "price": {"hourly": round(monthly / 666, 4), "monthly": monthly},
        "region_prices": [{"id": region, "hourly": 0.0105, "monthly": 7.0} for region in dearer],
    }


TYPES = [kind("g6-nanode-1", "nanode", 1024, 5.0, ["br-gru"])]
TYPES += [kind(f"g6-dedicated-{n}", "dedicated", 2048 * n, 18.0 * n) for n in range(1, 260)]


def paged(items, query):
    page, per = int(query.get("page", 1)), int(query.get("page_size", 100))
    if not 25 <= per <= 500:
        raise Refused(400, "Must be 25-500", field="page_size")
    pages = max(1, -(-len(items) // per))
    return 200, {"data": items[(page - 1) * per:page * per], "page": page, "pages": pages, "results": len(items)}


class Linode(Cloud):
    prefix = "v4"

    def error(self, status, message, more):
        return {"errors": [{"reason": message, "field": more.get("field")}]}

    def public(self, method, parts):
        return method == "GET" and parts in (["regions"], ["linode", "types"])

    def profile(self, query):
        return 200, {"username": "bob", "email": "bob@example.com", "restricted": False}

    def regions(self, query):
        return paged(REGIONS, query)

    def types(self, query):
        return paged(TYPES, query)

    def list_keys(self, query):
        return paged(list(self.keys.values()), query)

    def add_key(self, body, query):
        key = {"id": self.new_id(), "label": body["label"], "ssh_key": body["ssh_key"], "created": "2026-01-01T00:01:01"}
        self.keys[key["id"]] = key
        return 200, key

    def get_key(self, id, query):
        return 200, self.one(self.keys, id)

    def delete_key(self, id, query):
        self.one(self.keys, id)
        del self.keys[id]
        return 200, {}

    def order(self, body, query):
        if body["type"] not in [known["id"] for known in TYPES]:
            raise Refused(400, "A valid plan type by that ID was not found", field="type")
        if body["region"] not in [region["id"] for region in REGIONS]:
            raise Refused(400, "region is not valid", field="region")
        if any(linode["label"] == body["label"] for linode in self.servers.values()):
            raise Refused(400, "Label must be unique among your linodes", field="label")
        assert body["image"] == "linode/ubuntu22.04" and len(body["root_pass"]) >= 32 and body["private_ip"] is True
        assert body["authorized_keys"][0].startswith("ssh-")
        linode = {"id": self.new_id(), "label": body["label"], "status": "provisioning", "ipv4": ["203.0.113.1"], "tags": body["tags"],
                  "created": now()}
        self.servers[linode["id"]] = linode
        return 200, linode

    def list_instances(self, query):
        return paged(list(self.servers.values()), query)

    def query(self, id, query):
        linode = self.one(self.servers, id)
        told = dict(linode)
        steps = {"provisioning": "booting", "booting": "running", "rebooting": "running"}
        linode["status"] = steps.get(linode["status"], linode["status"])
        if linode["status"] == "running":
            linode["ipv4"] = ["203.0.113.1", "192.168.128.5"]
        return 200, told

    def cancel(self, id, query):
        self.one(self.servers, id)
        del self.servers[id]
        return 200, {}

    def reboot(self, id, body, query):
        self.one(self.servers, id)["status"] = "rebooting"
        return 200, {}

    def rename(self, id, body, query):
        self.one(self.servers, id)["label"] = body["label"]
        return 200, self.servers[id]

    def tag(self, id, value):
        self.servers[id]["tags"] = [f"Nanobox:{value}"]

    routes = [
        ("GET", ["profile"], profile), ("GET", ["regions"], regions), ("GET", ["linode", "types"], types),
        ("GET", ["profile", "sshkeys"], list_keys), ("POST", ["profile", "sshkeys"], add_key),
        ("GET", ["profile", "sshkeys", None], get_key), ("DELETE", ["profile", "sshkeys", None], delete_key),
        ("GET", ["linode", "instances"], list_instances), ("POST", ["linode", "instances"], order),
        ("GET", ["linode", "instances", None], query), ("DELETE", ["linode", "instances", None], cancel),
        ("PUT", ["linode", "instances", None], rename), ("POST", ["linode", "instances", None, "reboot"], reboot),
    ]
