"""Channel between host and guest: many streams of bytes over one virtio-serial port."""
