# What the control plane needs: to read, and nothing else.

# Services, allocations and the results of their checks; configuration.
namespace "*" {
  policy = "read"

  variables {
    path "xebec" {
      capabilities = ["list", "read"]
    }
    path "xebec/*" {
      capabilities = ["list", "read"]
    }
  }
}

# Which nodes are down or being drained, and in which zone they are.
node {
  policy = "read"
}
