// llama.cpp's RPC server, for a guest that computes a part of another one's model, in place of upstream's tools/rpc: it has
// one processor to offer, one place to listen, and a host that wants to know when it does.
//
// ggml-rpc.cpp calls socket_t::create_server() when all is ready: it comes here first, by way of the linker (--wrap), as in
// hot.cpp.
#include "worker.h"

#include "console/hot.h"
#include "ggml-backend.h"
#include "ggml-rpc.h"
#include "transport.h"

#include <cstdio>
#include <string>
#include <thread>

#define SERVER "_ZN8socket_t13create_serverEPKci"
socket_ptr upstream_server(const char * host, int port) __asm__("__real_" SERVER);
socket_ptr worker_server(const char * host, int port) __asm__("__wrap_" SERVER);

socket_ptr worker_server(const char * host, int port) {
    socket_ptr server = upstream_server(host, port);
    if (server != nullptr) {
        console::begin();
    }
    return server;
}

// ggml's list of backends has it only by this: so nothing else of llama.cpp is compiled anew for it.
void register_rpc() {
    ggml_backend_register(ggml_backend_rpc_reg());
}

// Serve at a port of the loopback interface, the first word, with the weights in the files that the others name, if the
// client has the same; returns only if that fails.
int worker(int count, char ** words) {
    for (int i = 1; i < count; i++) {
        know_weights(words[i]);
    }
    ggml_backend_dev_t processor = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    unsigned threads = std::thread::hardware_concurrency();
    // The folder for files is none: what is not in the model is not kept.
    ggml_backend_rpc_start_server(("127.0.0.1:" + std::string(words[0])).c_str(), "/nowhere", threads, 1, &processor);
    fprintf(stderr, "zosia: the RPC server can't listen\n");
    return 1;
}
