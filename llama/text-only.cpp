// What llama-server calls of libmtmd (image and audio input), for a build without it.
//
// Without --mmproj no multimodal context is ever made, so only the functions that run without one have a body; the
// others can't be reached. Upstream's headers are included: a changed result stops the compiler; other arguments, which
// make it another function, or a new function the linker.
#include "mtmd-helper.h"
#include "mtmd.h"

#include <cstdio>
#include <cstdlib>

[[noreturn]] static void unreachable() {
    fputs("zosia: this llama-cli is built for text; images and audio are left out\n", stderr);
    abort();
}

// Reached without a multimodal context
mtmd_context_params mtmd_context_params_default() { return {}; }
mtmd_helper_init_opt mtmd_helper_init_opt_default() { return {}; }
mtmd_caps mtmd_get_cap_from_file(const char *) { return {}; }
std::map<ggml_backend_dev_t, size_t> mtmd_get_memory_usage(const char *, mtmd_context_params) { return {}; }
void mtmd_helper_log_set(ggml_log_callback, void *) {}
void mtmd_free(mtmd_context *) {}
mtmd_context * mtmd_init_from_file(const char *, const llama_model *, const mtmd_context_params) {
    fputs("zosia: this llama-cli is built for text; images and audio are left out: --mmproj can't be used\n", stderr);
    return nullptr;
}
mtmd_helper_bitmap_wrapper mtmd_helper_bitmap_init_from_buf(
        const mtmd_context *, const unsigned char *, size_t, bool, mtmd_helper_init_opt) {
    return {};
}

// Not reached
bool mtmd_support_vision(const mtmd_context *) { unreachable(); }
bool mtmd_support_audio(const mtmd_context *) { unreachable(); }
bool mtmd_helper_support_video(const mtmd_context *) { unreachable(); }
void mtmd_bitmap_free(mtmd_bitmap *) { unreachable(); }
void mtmd_helper_video_free(mtmd_helper_video *) { unreachable(); }
mtmd_input_chunks * mtmd_input_chunks_init() { unreachable(); }
size_t mtmd_input_chunks_size(const mtmd_input_chunks *) { unreachable(); }
const mtmd_input_chunk * mtmd_input_chunks_get(const mtmd_input_chunks *, size_t) { unreachable(); }
void mtmd_input_chunks_free(mtmd_input_chunks *) { unreachable(); }
mtmd_input_chunk_type mtmd_input_chunk_get_type(const mtmd_input_chunk *) { unreachable(); }
const llama_token * mtmd_input_chunk_get_tokens_text(const mtmd_input_chunk *, size_t *) { unreachable(); }
size_t mtmd_input_chunk_get_n_tokens(const mtmd_input_chunk *) { unreachable(); }
const char * mtmd_input_chunk_get_id(const mtmd_input_chunk *) { unreachable(); }
llama_pos mtmd_input_chunk_get_n_pos(const mtmd_input_chunk *) { unreachable(); }
mtmd_input_chunk * mtmd_input_chunk_copy(const mtmd_input_chunk *) { unreachable(); }
void mtmd_input_chunk_free(mtmd_input_chunk *) { unreachable(); }
mtmd_input_chunk * mtmd_input_chunk_get_placeholder(const mtmd_input_chunk *) { unreachable(); }
int32_t mtmd_input_chunk_save(const mtmd_input_chunk *, char *, size_t, size_t *) { unreachable(); }
mtmd_input_chunk * mtmd_input_chunk_load(const char *, size_t) { unreachable(); }
int32_t mtmd_tokenize(const mtmd_context *, mtmd_input_chunks *, const mtmd_input_text *, const mtmd_bitmap * const *,
                      size_t) {
    unreachable();
}
mtmd_batch * mtmd_batch_init(mtmd_context *) { unreachable(); }
void mtmd_batch_free(mtmd_batch *) { unreachable(); }
int32_t mtmd_batch_add_chunk(mtmd_batch *, const mtmd_input_chunk *) { unreachable(); }
int32_t mtmd_batch_encode(mtmd_batch *) { unreachable(); }
float * mtmd_batch_get_output_embd(mtmd_batch *, const mtmd_input_chunk *) { unreachable(); }
int32_t mtmd_helper_decode_image_chunk(mtmd_context *, llama_context *, const mtmd_input_chunk *, float *, llama_pos,
                                       llama_seq_id, int32_t, llama_pos *, mtmd_helper_post_decode_callback, void *) {
    unreachable();
}
