// Work that llama.cpp does while it loads a model and that a text chat can do without, taken out by the linker (--wrap).
// Upstream's sources stay as they are. A function that goes or changes there fails the build (wrap.cmake).
//
// What each buys, of 435 million instructions from the start of llama-cli to its prompt (SmolLM2-135M, emulated):
//   gguf_kv_to_str()              592 million without it
//   common_context_can_seq_rm()   601 million without it
//   sleep_for()                   0.09 s of waiting, of 1.6 s from the start of QEMU to the prompt
#include "common.h"
#include "gguf.h"
#include "llama.h"

#include <time.h>

#include <algorithm>
#include <chrono>
#include <string>

// std::string gguf_kv_to_str(const gguf_context *, int) of src/llama-impl.h
#define KV_TO_STR "_Z14gguf_kv_to_strPK12gguf_contexti"
std::string upstream_kv_to_str(const gguf_context * metadata, int key) __asm__("__real_" KV_TO_STR);
std::string short_kv_to_str(const gguf_context * metadata, int key) __asm__("__wrap_" KV_TO_STR);

// common_context_seq_rm_type common_context_can_seq_rm(llama_context *) of common/common.h
#define CAN_SEQ_RM "_Z25common_context_can_seq_rmP13llama_context"
common_context_seq_rm_type upstream_can_seq_rm(llama_context * context) __asm__("__real_" CAN_SEQ_RM);
common_context_seq_rm_type known_can_seq_rm(llama_context * context) __asm__("__wrap_" CAN_SEQ_RM);

// The log shows 40 characters of each value in a model's metadata; upstream writes out whole vocabularies for them.
std::string short_kv_to_str(const gguf_context * metadata, int key) {
    return gguf_get_kv_type(metadata, key) == GGUF_TYPE_ARRAY ? "[...]" : upstream_kv_to_str(metadata, key);
}

// Whether the last tokens of a context can be removed. Upstream evaluates two tokens, and so reads the weights, to see
// it; but only a state that is carried from token to token can't go back, and the model says whether it has one.
common_context_seq_rm_type known_can_seq_rm(llama_context * context) {
    const llama_model * model = llama_get_model(context);
    bool carried = llama_model_is_recurrent(model) || llama_model_is_hybrid(model);
    return carried || llama_get_memory(context) == nullptr ? upstream_can_seq_rm(context)
                                                           : COMMON_CONTEXT_SEQ_RM_TYPE_PART;
}

// std::this_thread::sleep_for(); libstdc++ compiles it into its callers
#ifdef _LIBCPP_VERSION
#define SLEEP "_ZNSt3__111this_thread9sleep_forERKNS_6chrono8durationIxNS_5ratioILl1ELl1000000000EEEEE"
using duration = std::chrono::nanoseconds;
void upstream_sleep(const duration & wanted) __asm__("__real_" SLEEP);
void short_sleep(const duration & wanted) __asm__("__wrap_" SLEEP);
#else
int upstream_sleep(const timespec * wanted, timespec * left) __asm__("__real_nanosleep");
int short_sleep(const timespec * wanted, timespec * left) __asm__("__wrap_nanosleep");
#endif

// Upstream sleeps 200 or 300 ms between two questions to its server, such as whether the model is loaded. More often than
// this, the questions slow down the loading. Sleeps of a second and more are console.cpp's own.
#define MOST 50'000'000 // ns
#ifdef _LIBCPP_VERSION
void short_sleep(const duration & wanted) {
    upstream_sleep(wanted < std::chrono::seconds(1) ? std::min(wanted, duration(MOST)) : wanted);
}
#else
int short_sleep(const timespec * wanted, timespec * left) {
    timespec most = {0, MOST};
    return upstream_sleep(wanted->tv_sec == 0 && wanted->tv_nsec > MOST ? &most : wanted, left);
}
#endif
