// llama.cpp's RPC backend, but that a worker takes large weights from its own copy of the model.
//
// Upstream's client asks for each tensor of more than 10 MiB whether the server has a file that is called by the hash of its
// bytes. That would take minutes for each start, and twice the disk. Here both ends know by zosia's handshake that they have
// the same model, byte for byte; so the hash is that of the tensor's name and size, and the "file" is the tensor in the
// model. Without the same model the server has no files, and all weights are sent.
//
// Upstream's source is included, with its hash, the one place where it looks for such a file, and the one where a server takes
// its processor, under other names.
#include "ggml-backend.h"
#include "ggml-impl.h"
#include "gguf.h"
#include "worker.h"

#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <unordered_map>
#include <vector>

namespace {

struct weights {
    std::string file;
    size_t offset, size; // in bytes
};

constexpr size_t PORTION = 16 << 20; // bytes that are read at once

std::unordered_map<std::string, weights> & own = *new std::unordered_map<std::string, weights>; // by upstream's file name

uint64_t fnv(const void * data, size_t size, uint64_t hash = 0xcbf29ce484222325ULL) {
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ static_cast<const unsigned char *>(data)[i]) * 0x100000001b3ULL;
    }
    return hash;
}

uint64_t tag(const char * name, size_t size) {
    return fnv(name, strlen(name), fnv(&size, sizeof size));
}

const weights * found(const std::filesystem::path & path) {
    auto entry = own.find(path.filename().string());
    return entry == own.end() ? nullptr : &entry->second;
}

} // namespace

// What upstream asks of the standard library here. No other name would be found there.
namespace std {

class own_weights {
  public:
    own_weights(const filesystem::path & path, ios_base::openmode mode) : what(*found(path)), file(what.file, mode) {}
    void seekg(streamoff offset, ios_base::seekdir from) {
        place = static_cast<size_t>((from == ios_base::end ? static_cast<streamoff>(what.size) : 0) + offset);
    }
    size_t tellg() const { return place; }
    void read(char * bytes, size_t size) {
        file.seekg(static_cast<streamoff>(what.offset + place));
        for (size_t some; size > 0 && file; bytes += some, size -= some) {
            some = min(size, PORTION);
            file.read(bytes, static_cast<streamsize>(some));
            progress();
        }
        if (!file) GGML_ABORT("zosia: %s can't be read\n", what.file.c_str()); // or the answers would be wrong
    }

  private:
    const weights what;
    ifstream file;
    size_t place = 0;
};

namespace filesystem {
inline bool is_own(const path & path, error_code &) { return found(path) != nullptr; }
} // namespace filesystem

} // namespace std

#define ggml_backend_dev_init init_watched
#define ifstream own_weights
#define exists is_own
#define THREE(data, size, hash) fnv_hash_of(data, size, hash)
#define TWO(data, size) ((size) > HASH_THRESHOLD ? tag(tensor->name, size) : fnv(data, size))
#define CHOSEN(_1, _2, _3, name, ...) name
#define fnv_hash(...) CHOSEN(__VA_ARGS__, THREE, TWO, )(__VA_ARGS__)
#include "ggml-rpc.cpp"
#undef ggml_backend_dev_init
#undef ifstream
#undef exists
#undef fnv_hash

// Know the tensors of a model, which is the same as the client's: a .gguf, or one part of a split one.
void know_weights(const std::string & file) {
    gguf_context * model = gguf_init_from_file(file.c_str(), {/*.no_alloc =*/true, /*.ctx =*/nullptr});
    if (model == nullptr) return;
    for (int64_t i = 0; i < gguf_get_n_tensors(model); i++) {
        size_t size = gguf_get_tensor_size(model, i);
        char name[17];
        snprintf(name, sizeof name, "%016" PRIx64, tag(gguf_get_tensor_name(model, i), size));
        own[name] = {file, gguf_get_data_offset(model) + gguf_get_tensor_offset(model, i), size};
    }
    gguf_free(model);
}
