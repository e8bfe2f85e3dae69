// llama-cli, llama-server and an RPC server in one program, which others would double: the name that it is started by
// decides. A further name, zosia-wake, is for a machine that resumes.
#include "console/hot.h"
#include "worker.h"

#include <cstdlib>
#include <string>

int llama_cli(int argc, char ** argv);
int llama_server(int argc, char ** argv);

int main(int argc, char ** argv) {
    std::string name = argc > 0 ? argv[0] : "";
    name = name.substr(name.rfind('/') + 1);
    if (name == "zosia-wake" && argc == 4) {
        return console::wake(argv[1], argv[2], argv[3]);
    }
    if (name.rfind("rpc-server", 0) == 0 && argc >= 2) {
        console::serve();
        return worker(argc - 1, argv + 1);
    }
    register_rpc();
    if (getenv("ZOSIA_WORKERS") != nullptr) {
        tell_speed();
    }
    if (name.rfind("llama-server", 0) != 0) {
        return llama_cli(argc, argv);
    }
    console::serve();
    return llama_server(argc, argv);
}
