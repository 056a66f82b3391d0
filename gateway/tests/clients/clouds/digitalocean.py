"""DigitalOcean's API v2, as much of it as an adapter asks."""
from cloud import Cloud, Refused, now

REGIONS = [
    {"slug": "nyc3", "name": "New York 3", "available": True, "sizes": ["s-1vcpu-1gb"], "features": []},
    {"slug": "ams2", "name": "Amsterdam 2", "available": False, "sizes": [], "features": []},
]


def size(slug, memory, monthly, description="Basic", available=True):
    return {
        "slug": slug, "memory": memory, "vcpus": 1, "disk": 25, "transfer": 1.0, "price_monthly": monthly,
        "price_hourly": round(monthly / 672, 5), "regions": ["ams2", "nyc3"], "available": available,
        "description": description,
    }


SIZES = [size(f"c-{n}", 1024 * n, 40.0 + n, "CPU-Optimized") for n in range(1, 150)]
SIZES += [size("s-1vcpu-2gb", 2048, 12.0), size("s-1vcpu-1gb", 1024, 6.0), size("old", 512, 5.0, available=False)]
SIZES += [size("gpu-h100x1-80gb", 245760, 2276.0, "H100 GPU")]


def paged(name, items, query):
    page, per = int(query.get("page", 1)), min(int(query.get("per_page", 20)), 200)
    there = items[(page - 1) * per:page * per]
    more = {"pages": {"next": f"https://api.digitalocean.com/?page={page + 1}"}} if page * per < len(items) else {}
    return 200, {name: there, "links": more, "meta": {"total": len(items)}}


class DigitalOcean(Cloud):
    prefix = "v2"

    def error(self, status, message, more):
        return {"id": {401: "unauthorized", 404: "not_found", 422: "unprocessable_entity"}.get(status, "error"),
                "message": message, "request_id": "4d9d8375"}

    def account(self, query):
        return 200, {"account": {"status": "active", "email": "a@example.com", "droplet_limit": 25}}

    def regions(self, query):
        return paged("regions", REGIONS, query)

    def sizes(self, query):
        return paged("sizes", SIZES, query)

    def list_keys(self, query):
        return paged("ssh_keys", list(self.keys.values()), query)

    def add_key(self, body, query):
        if any(key["public_key"].split()[:2] == body["public_key"].split()[:2] for key in self.keys.values()):
            raise Refused(422, "SSH Key is already in use on your account")
        key = {"id": self.new_id(), "fingerprint": "3b:16:bf", "public_key": body["public_key"], "name": body["name"]}
        self.keys[key["id"]] = key
        return 201, {"ssh_key": key}

    def get_key(self, id, query):
        return 200, {"ssh_key": self.one(self.keys, id)}

    def delete_key(self, id, query):
        self.one(self.keys, id)
        del self.keys[id]
        return 204, None

    def order(self, body, query):
        if body["size"] not in [known["slug"] for known in SIZES]:
            raise Refused(422, "You specified an invalid size for Droplet creation.")
        if body["region"] not in [region["slug"] for region in REGIONS if region["available"]]:
            raise Refused(422, "You specified an invalid region for Droplet creation.")
        if any(key not in self.keys for key in body["ssh_keys"]):
            raise Refused(422, "You specified invalid SSH key IDs for Droplet creation.")
        assert body["image"] == "ubuntu-22-04-x64"
        droplet = {"id": self.new_id(), "name": body["name"], "status": "new", "tags": body["tags"],
                   "created_at": now() + "Z", "networks": {"v4": [], "v6": []}}
        self.servers[droplet["id"]] = droplet
        return 202, {"droplet": droplet, "links": {"actions": [{"id": 1, "rel": "create", "href": "https://..."}]}}

    def list_droplets(self, query):
        return paged("droplets", list(self.servers.values()), query)

    def query(self, id, query):
        droplet = self.one(self.servers, id)
        told = dict(droplet)
        # Looked at twice it is there.
        if droplet["status"] == "new" and droplet.setdefault("_looks", 0) < 1:
            droplet["_looks"] += 1
        elif droplet["status"] == "new":
            droplet["status"] = "active"
            droplet["networks"]["v4"] = [
                {"ip_address": "10.132.0.2", "netmask": "255.255.0.0", "gateway": "10.132.0.1", "type": "private"},
                {"ip_address": "203.0.113.7", "netmask": "255.255.240.0", "gateway": "203.0.113.1", "type": "public"},
            ]
        return 200, {"droplet": told}

    def cancel(self, id, query):
        self.one(self.servers, id)
        del self.servers[id]
        return 204, None

    def act(self, id, body, query):
        droplet = self.one(self.servers, id)
        if body["type"] == "rename":
            droplet["name"] = body["name"]
        elif body["type"] != "reboot":
            raise Refused(422, "unknown action")
        return 201, {"action": {"id": 7, "status": "in-progress", "type": body["type"]}}

    def tag(self, id, value):
        self.servers[id]["tags"] = [f"Nanobox:{value}"]

    routes = [
        ("GET", ["account"], account), ("GET", ["regions"], regions), ("GET", ["sizes"], sizes),
        ("GET", ["account", "keys"], list_keys), ("POST", ["account", "keys"], add_key),
        ("GET", ["account", "keys", None], get_key), ("DELETE", ["account", "keys", None], delete_key),
        ("GET", ["droplets"], list_droplets), ("POST", ["droplets"], order), ("GET", ["droplets", None], query),
        ("DELETE", ["droplets", None], cancel), ("POST", ["droplets", None, "actions"], act),
    ]
