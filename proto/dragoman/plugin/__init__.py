"""What backends outside the core implement."""
