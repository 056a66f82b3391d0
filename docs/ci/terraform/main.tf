# An organization, a box and a webhook, by a generic provider for REST: there is no provider of our own.
terraform {
  required_providers {
    restapi = {
      source  = "Mastercard/restapi"
      version = "~> 1.20"
    }
  }
}

variable "boxvault_url" {
  type    = string
  default = "https://boxes.example.com"
}

# Of a person who may make organizations, and for webhooks of an administrator of the platform.
variable "boxvault_token" {
  type      = string
  sensitive = true
}

variable "webhook_secret" {
  type      = string
  sensitive = true
}

provider "restapi" {
  uri                  = var.boxvault_url
  write_returns_object = true
  headers = {
    "Content-Type"   = "application/json"
    "x-access-token" = var.boxvault_token
  }
}

resource "restapi_object" "organization" {
  path         = "/api/organization"
  id_attribute = "name"
  data = jsonencode({
    name        = "example-org"
    description = "Example organization"
  })
}

resource "restapi_object" "ubuntu" {
  path         = "/api/organization/${restapi_object.organization.id}/box"
  id_attribute = "name"
  data = jsonencode({
    name        = "ubuntu-20.04"
    description = "Ubuntu 20.04 LTS"
    isPublic    = true
    published   = true
  })
}

resource "restapi_object" "webhook" {
  path          = "/api/admin/webhooks"
  id_attribute  = "id"
  update_method = "PATCH"
  data = jsonencode({
    url         = "https://ci.example.com/boxes"
    events      = ["box.uploaded", "box.deleted"]
    description = "CI"
    secret      = var.webhook_secret
  })
  # A secret is changed by .../rotate-secret, so that both count for a while.
  update_data = jsonencode({
    url         = "https://ci.example.com/boxes"
    events      = ["box.uploaded", "box.deleted"]
    description = "CI"
  })
}
