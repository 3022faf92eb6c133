"""What both gRPC services share: channel options, binding rules, health, metrics, graceful stop, error mapping."""
