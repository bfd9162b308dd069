# A service with a stock Envoy beside it. Callers reach the service through its Envoy, and it reaches others through it.
#
# Envoy listens on the service's port, which Nomad chooses, and forwards to the application on 127.0.0.1. For calls to
# others it listens on a loopback address: http://127.0.0.1:9080 with the callee's name as Host.

variable "xebec" {
  description = "Where the program is on the clients."
  type        = string
  default     = "/usr/local/bin/xebec"
}

variable "envoy" {
  description = "Where Envoy is on the clients."
  type        = string
  default     = "/usr/local/bin/envoy"
}

variable "datacenters" {
  type    = list(string)
  default = ["*"]
}

variable "server" {
  description = "Where the control plane serves xDS: an address, or a name that follows it."
  type        = string
  default     = "127.0.0.1:15010"
}

variable "loopback" {
  description = "Where Envoy listens for calls to others. Each group that shares a machine's network needs its own."
  type        = string
  default     = "127.0.0.1"
}

job "web-envoy" {
  type        = "service"
  datacenters = var.datacenters

  update {
    health_check     = "checks"
    min_healthy_time = "2s"
  }

  group "web" {
    # When it stops, callers hear that it goes, and then it goes.
    shutdown_delay = "2s"

    network {
      port "http" {}
      port "app" {}
      port "admin" {}
    }

    service {
      name     = "web-envoy"
      provider = "nomad"
      port     = "http"
      tags = [
        "version=v1",
        "protocol=http",
        "mesh-port=9080",
        "mesh-app-port=${NOMAD_PORT_app}",
      ]

      # Through Envoy.
      check {
        type     = "http"
        path     = "/"
        interval = "2s"
        timeout  = "2s"
      }
    }

    task "envoy" {
      driver = "raw_exec"

      lifecycle {
        hook    = "prestart"
        sidecar = true
      }

      config {
        command = var.xebec
        args    = ["envoy", "run"]
      }

      # The name says which instance is its own.
      env {
        XEBEC_ENVOY           = var.envoy
        XEBEC_SERVER          = var.server
        XEBEC_NAME            = "${NOMAD_ALLOC_ID}"
        XEBEC_NAMESPACE       = "${NOMAD_NAMESPACE}"
        XEBEC_SERVICE_ACCOUNT = "${NOMAD_JOB_ID}"
        XEBEC_IP              = "${var.loopback},${NOMAD_IP_http}"
        XEBEC_LABEL           = "version=v1"
        XEBEC_LOCALITY        = "${NOMAD_REGION}/${NOMAD_DC}"
        XEBEC_ADMIN_ADDR      = "127.0.0.1:${NOMAD_PORT_admin}"
        XEBEC_CONCURRENCY     = "1"
        XEBEC_DRAIN_TIME      = "5s"
      }

      kill_timeout = "10s"

      resources {
        cpu    = 100
        memory = 256
      }
    }

    # Any program that listens on NOMAD_PORT_app of 127.0.0.1.
    task "web" {
      driver = "raw_exec"

      config {
        command = "python3"
        args = [
          "-m", "http.server", "${NOMAD_PORT_app}",
          "--bind", "127.0.0.1", "--directory", "${NOMAD_TASK_DIR}/site",
        ]
      }

      template {
        destination = "local/site/index.html"
        data        = "hello from web-envoy\n"
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
