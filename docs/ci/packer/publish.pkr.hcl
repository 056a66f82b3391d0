# Publishes a box that is there already: packer build -var version=1.0.0 -var box=ubuntu-20.04.box publish.pkr.hcl
# The box's name must be known to the gateway before (`vagrant cloud box create myorg/ubuntu-20.04`).
variable "url" {
  type    = string
  default = "https://boxes.example.com"
}

variable "token" {
  type      = string
  sensitive = true
}

variable "version" {
  type = string
}

variable "box" {
  type    = string
  default = "ubuntu-20.04.box"
}

source "null" "box" {
  communicator = "none"
}

build {
  sources = ["source.null.box"]

  post-processors {
    post-processor "artifice" {
      files = [var.box]
    }
    post-processor "vagrant-cloud" {
      vagrant_cloud_url = "${var.url}/api/v1"
      access_token      = var.token
      box_tag           = "myorg/ubuntu-20.04"
      version           = var.version
    }
  }
}
