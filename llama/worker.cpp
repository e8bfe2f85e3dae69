// llama.cpp's RPC server, for a guest that computes a part of another one's model, in place of upstream's tools/rpc: it has
// one processor to offer, one place to listen, and a host that wants to know when it does.
//
// ggml-rpc.cpp calls socket_t::create_server() when all is ready: it comes here first, by way of the linker (--wrap), as in
// hot.cpp.
//
// A server that hangs looks like one that computes, and the relay beside it, which answers the other machine's PING, can't
// tell. So there is a pulse: a number in the file descriptor ZOSIA_PULSE, which changes as long as the server gets on, or waits
// for the other end. Without it the relay answers no PING.
#include "worker.h"

#include "console/hot.h"
#include "ggml-cpu.h"
#include "ggml-rpc.h"
#include "ggml.h"
#include "transport.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <unistd.h>

#define SERVER "_ZN8socket_t13create_serverEPKci"
socket_ptr upstream_server(const char * host, int port) __asm__("__real_" SERVER);
socket_ptr worker_server(const char * host, int port) __asm__("__wrap_" SERVER);

namespace {

constexpr auto BEAT = std::chrono::milliseconds(200);
constexpr int COLUMNS = 2048, ROWS = 1024; // of half precision: 4 MiB
constexpr auto MEASURED = std::chrono::milliseconds(20);

std::atomic<int> waits;
std::atomic<unsigned> steps;

void beat(int fd) {
    uint64_t pulse = 0;
    for (unsigned seen = 0;; std::this_thread::sleep_for(BEAT)) {
        unsigned now = steps;
        if (now != seen || waits > 0) {
            seen = now;
            pulse++;
            (void) !pwrite(fd, &pulse, sizeof pulse, 0);
        }
    }
}

} // namespace

waiting::waiting() {
    waits++;
}

waiting::~waiting() {
    waits--;
    steps++;
}

void progress() {
    steps++;
}

// The callback comes after each step of an evaluation.
ggml_backend_t init_watched(ggml_backend_dev_t device, const char * parameters) {
    ggml_backend_t backend = ggml_backend_dev_init(device, parameters);
    if (backend != nullptr && ggml_backend_is_cpu(backend)) {
        ggml_backend_cpu_set_abort_callback(
            backend,
            [](void *) {
                progress();
                return false;
            },
            nullptr);
    }
    return backend;
}

socket_ptr worker_server(const char * host, int port) {
    socket_ptr server = upstream_server(host, port);
    if (server != nullptr) {
        if (const char * pulse = getenv("ZOSIA_PULSE")) {
            std::thread(beat, atoi(pulse)).detach();
        }
        console::begin();
    }
    return server;
}

// ggml's list of backends has it only by this: so nothing else of llama.cpp is compiled anew for it.
void register_rpc() {
    ggml_backend_register(ggml_backend_rpc_reg());
}

void tell_speed() {
    ggml_context * context = ggml_init({/*.mem_size =*/16u << 20, /*.mem_buffer =*/nullptr, /*.no_alloc =*/false});
    ggml_tensor * weights = ggml_new_tensor_2d(context, GGML_TYPE_F16, COLUMNS, ROWS);
    ggml_tensor * state = ggml_new_tensor_1d(context, GGML_TYPE_F32, COLUMNS);
    ggml_set_zero(weights);
    ggml_set_zero(state);
    ggml_cgraph * graph = ggml_new_graph(context);
    ggml_build_forward_expand(graph, ggml_mul_mat(context, weights, state));
    double most = 0;
    auto began = std::chrono::steady_clock::now(), now = began;
    do { // the fastest of them, on one processor: other programs only make it slower
        auto before = now;
        ggml_graph_compute_with_ctx(context, graph, 1);
        now = std::chrono::steady_clock::now();
        most = std::max(most, COLUMNS * ROWS / 1e6 / std::chrono::duration<double>(now - before).count());
    } while (now - began < MEASURED);
    ggml_free(context);
    most *= std::thread::hardware_concurrency();
    console::tell("speed " + std::to_string(static_cast<long>(most)) + "\n");
}

// Serve at a port of the loopback interface, the first word, or at @ and a file descriptor that connections come over; with
// the weights in the files that the others name, if the client has the same. Returns only if that fails.
int worker(int count, char ** words) {
    std::string place = words[0];
    if (place[0] == '@') {
        inherit(atoi(place.c_str() + 1));
        place = "1"; // any port: nothing is bound
    }
    for (int i = 1; i < count; i++) {
        know_weights(words[i]);
    }
    tell_speed();
    ggml_backend_dev_t processor = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    unsigned threads = std::thread::hardware_concurrency();
    // The folder for files is none: what is not in the model is not kept.
    ggml_backend_rpc_start_server(("127.0.0.1:" + place).c_str(), "/nowhere", threads, 1, &processor);
    fprintf(stderr, "zosia: the RPC server can't listen\n");
    return 1;
}
