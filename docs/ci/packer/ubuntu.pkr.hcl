# Builds a box and publishes it: packer build -var version=1.0.0 ubuntu.pkr.hcl
# Without the last post-processor it is what the jobs beside this folder build, and send by themselves.
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

variable "iso_url" {
  type    = string
  default = "https://old-releases.ubuntu.com/releases/20.04/ubuntu-20.04-live-server-amd64.iso"
}

variable "iso_checksum" {
  type    = string
  default = "file:https://old-releases.ubuntu.com/releases/20.04/SHA256SUMS"
}

source "virtualbox-iso" "ubuntu" {
  guest_os_type    = "Ubuntu_64"
  iso_url          = var.iso_url
  iso_checksum     = var.iso_checksum
  http_directory   = "http"
  boot_command     = ["<enter><wait><f6><esc> autoinstall ds=nocloud-net;s=http://{{ .HTTPIP }}:{{ .HTTPPort }}/<enter>"]
  ssh_username     = "vagrant"
  ssh_password     = "vagrant"
  ssh_timeout      = "40m"
  shutdown_command = "echo vagrant | sudo -S shutdown -P now"
}

build {
  sources = ["source.virtualbox-iso.ubuntu"]

  post-processors {
    post-processor "vagrant" {
      output = "ubuntu-20.04.box"
    }
    post-processor "vagrant-cloud" {
      vagrant_cloud_url = "${var.url}/api/v1"
      access_token      = var.token
      box_tag           = "myorg/ubuntu-20.04"
      version           = var.version
    }
  }
}
