// An answer in which llama.cpp does not find its model's format is shown as text, by way of the linker (--wrap), as in
// loading.cpp. Upstream drops it, and has an error in its place. A few in a hundred of gpt-oss's are such, at temperature 1:
// it writes something else in the header of a message (llama.cpp#27720).
#include "chat.h"

#include <algorithm>
#include <exception>
#include <string>

// common_chat_msg common_chat_parse(const std::string &, bool, const common_chat_parser_params &) of common/chat.h
#ifdef _LIBCPP_VERSION
#define PARSE "_Z17common_chat_parseRKNSt3__112basic_stringIcNS_11char_traitsIcEENS_9allocatorIcEEEEbRK25common_chat_parser_params"
#else
#define PARSE "_Z17common_chat_parseRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEbRK25common_chat_parser_params"
#endif
common_chat_msg upstream_parse(const std::string & input, bool partial, const common_chat_parser_params & params)
    __asm__("__real_" PARSE);
common_chat_msg any_parse(const std::string & input, bool partial, const common_chat_parser_params & params)
    __asm__("__wrap_" PARSE);

namespace {

// Messages as gpt-oss writes them: <|start|>ROLE<|channel|>NAME<|message|>TEXT<|end|>. Other formats lack these words.
const std::string channel = "<|channel|>", message = "<|message|>", end = "<|end|>";

// The beginning of the message in whose header a place is; elsewhere the place itself.
size_t header(const std::string & text, size_t place) {
    size_t found = text.substr(0, place).rfind(end);
    size_t begin = found == std::string::npos ? 0 : found + end.size();
    std::string before = text.substr(begin, place - begin);
    bool within = before.find(channel) != std::string::npos && before.find(message) == std::string::npos;
    return within ? begin : place;
}

// The texts of messages; of one without a text its header.
std::string readable(const std::string & text) {
    std::string shown;
    for (size_t at = 0, next = 0; at < text.size(); at = next) {
        next = text.find(end, at);
        std::string part = text.substr(at, next - at);
        next = next == std::string::npos ? text.size() : next + end.size();
        size_t body = part.rfind(message);
        part = body == std::string::npos ? part : part.substr(body + message.size());
        for (const std::string & mark : {std::string("<|start|>assistant"), channel}) {
            for (size_t found = 0; (found = part.find(mark)) != std::string::npos;) {
                part.erase(found, mark.size());
            }
        }
        shown += (shown.empty() || part.empty() ? "" : "\n\n") + part;
    }
    return shown;
}

bool has_format(const std::string & text, const common_chat_parser_params & params) {
    common_peg_parse_context context(text, COMMON_PEG_PARSE_FLAG_LENIENT);
    return !params.parser.parse(context).fail();
}

} // namespace

common_chat_msg any_parse(const std::string & input, bool partial, const common_chat_parser_params & params) {
    try {
        return upstream_parse(input, partial, params);
    } catch (const std::exception &) {
        if (params.parser.empty()) throw;
    }
    common_chat_msg result;
    result.role = "assistant";
    if (partial) return result; // nothing more is shown before the answer is whole
    try {
        result = upstream_parse(input, true, params); // what was shown so far
    } catch (const std::exception &) {
    }
    // The rest begins where the longest text ends that the format has.
    std::string whole = params.generation_prompt + input;
    size_t good = 0, bad = whole.size();
    while (bad - good > 1) {
        size_t middle = good + (bad - good) / 2;
        (has_format(whole.substr(0, middle), params) ? good : bad) = middle;
    }
    good = std::max(header(whole, good), params.generation_prompt.size());
    while (good > params.generation_prompt.size() && (whole[good] & 0xc0) == 0x80) { // in the middle of a character
        good--;
    }
    result.content += readable(whole.substr(good));
    return result;
}
