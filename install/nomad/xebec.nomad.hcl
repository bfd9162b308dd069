# The control plane, as a service job: it reads Nomad's services and Nomad's Variables.
#
# It authenticates with its own workload identity. Where ACLs are on, give that its rights once:
#   nomad acl policy apply -namespace default -job xebec xebec install/nomad/xebec-policy.hcl

variable "xebec" {
  description = "Where the program is on the clients."
  type        = string
  default     = "/usr/local/bin/xebec"
}

variable "nomad" {
  description = "Nomad's HTTP address, as the task reaches it."
  type        = string
  default     = "http://127.0.0.1:4646"
}

variable "datacenters" {
  type    = list(string)
  default = ["*"]
}

variable "xds_port" {
  description = "Where proxies connect to. In plain text: keep it on a network that you trust."
  type        = number
  default     = 15010
}

variable "http_port" {
  description = "Readiness, metrics, debug pages."
  type        = number
  default     = 15014
}

job "xebec" {
  type        = "service"
  datacenters = var.datacenters

  update {
    health_check     = "checks"
    min_healthy_time = "2s"
  }

  group "control-plane" {
    network {
      port "xds" { static = var.xds_port }
      port "http" { static = var.http_port }
    }

    # The deployment succeeds when everything has been read once.
    service {
      name     = "xebec"
      provider = "nomad"
      port     = "xds"

      check {
        type     = "http"
        port     = "http"
        path     = "/ready"
        interval = "5s"
        timeout  = "2s"
      }
    }

    task "serve" {
      driver = "raw_exec"

      config {
        command = var.xebec
        args = [
          "serve",
          "--registry=nomad:${var.nomad}",
          "--config=nomad:${var.nomad}/xebec",
          "--settings=${NOMAD_TASK_DIR}/settings.yaml",
          "--xds-addr=${NOMAD_ADDR_xds}",
          "--http-addr=${NOMAD_ADDR_http}",
        ]
      }

      # Written to secrets/nomad_token.
      identity {
        file = true
      }

      template {
        destination = "local/settings.yaml"
        data        = <<-EOF
          nomad:
          - address: ${var.nomad}
            tokenFile: {{ env "NOMAD_SECRETS_DIR" }}/nomad_token
            services: {exclude: [xebec]}
          EOF
      }

      # Nomad kills a task that needs more memory than this.
      resources {
        cpu    = 200
        memory = 512
      }
    }
  }
}
