"""Serves all three clouds at one port of this machine, whose number is printed: /v2, /v1 and /v4."""
from cloud import serve
from digitalocean import DigitalOcean
from hetzner import Hetzner
from linode import Linode

serve([DigitalOcean(), Hetzner(), Linode()])
