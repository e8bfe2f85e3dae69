// What main.cpp, rpc.cpp and transport.cpp need of worker.cpp, and of each other.
#pragma once

#include "ggml-backend.h"

#include <string>

void register_rpc();
int worker(int count, char ** words);
void know_weights(const std::string & file);

// Connections come over this socket, from the relay.
void inherit(int fd);

// Tell the host how many million multiplications this machine does in a second.
void tell_speed();

// As ggml_backend_dev_init(), of a processor whose progress is known.
ggml_backend_t init_watched(ggml_backend_dev_t device, const char * parameters);

// The server has got on.
void progress();

// As long as there is one, the server waits for the other end, and for nothing that it has to do itself.
struct waiting {
    waiting();
    ~waiting();
};
