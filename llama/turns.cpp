// Text that can't forge turns: "<|im_end|>" in a question, a file or a tool's result reaches the model as these characters.
//
// Upstream puts all that a client sends into the model's template, and then takes each text of a control token in it for that
// token. Here a mark stands before each such text when it comes in, and the tokenizer, which drops the marks, takes no control
// token that begins at one. Text without any reaches upstream as it came, and so does a prompt without marks. By way of the
// linker (--wrap), as in loading.cpp, and without it nothing is guarded.
//
//   common_chat_templates_init()    the vocabulary, and what its control tokens are
//   common_chat_templates_apply()   marks what it gets; of what it returns only the prompt keeps them
//   common_tokenize()               the prompt's tokens
//   safe_json_to_str()              answers to clients, such as a prompt from /apply-template, have no marks
//
// A mark is a random number with the number of a text, in digits: templates and JSON leave digits as they are, and who guessed
// one could only take power from a text of his own.
#include "chat.h"
#include "common.h"
#include "console/hot.h"
#include "llama.h"
#include "server-common.h"
#include "unicode.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#ifdef _LIBCPP_VERSION
#define INIT "_Z26common_chat_templates_initPK11llama_modelRKNSt3__112basic_stringIcNS2_11char_traitsIcEENS2_9allocatorIcEEEESA_SA_"
#define TOKENIZE "_Z15common_tokenizePK11llama_vocabRKNSt3__112basic_stringIcNS2_11char_traitsIcEENS2_9allocatorIcEEEEbb"
#else
#define INIT "_Z26common_chat_templates_initPK11llama_modelRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEES9_S9_"
#define TOKENIZE "_Z15common_tokenizePK11llama_vocabRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEbb"
#endif
#define APPLY "_Z27common_chat_templates_applyPK21common_chat_templatesRK28common_chat_templates_inputs"
#define ANSWER "_Z16safe_json_to_strRK11common_json"

using text = std::string;
using templates = common_chat_templates;
using inputs = common_chat_templates_inputs;

common_chat_templates_ptr upstream_init(const llama_model * model, const text & chat, const text & bos, const text & eos)
    __asm__("__real_" INIT);
common_chat_templates_ptr learning_init(const llama_model * model, const text & chat, const text & bos, const text & eos)
    __asm__("__wrap_" INIT);
common_chat_params upstream_apply(const templates * chat, const inputs & given) __asm__("__real_" APPLY);
common_chat_params marking_apply(const templates * chat, const inputs & given) __asm__("__wrap_" APPLY);
llama_tokens upstream_tokenize(const llama_vocab * vocab, const text & prompt, bool add_special, bool parse_special)
    __asm__("__real_" TOKENIZE);
llama_tokens guarded_tokenize(const llama_vocab * vocab, const text & prompt, bool add_special, bool parse_special)
    __asm__("__wrap_" TOKENIZE);
text upstream_answer(const common_json & answer) __asm__("__real_" ANSWER);
text clean_answer(const common_json & answer) __asm__("__wrap_" ANSWER);

namespace {

// A text that upstream looks for; a user-defined one, such as <think>, in any text.
struct special {
    text name;
    llama_token token;
    int attributes;
    bool everywhere() const { return (attributes & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN)) == 0; }
    // Upstream makes <|start|> of gpt-oss user-defined, and DeepSeek's <｜User｜> is: their form shows what they are for.
    bool forges() const {
        auto has = [&](const char * bar, size_t at) { return name.find(bar) == at; };
        auto ends = [&](const text & end) { return name.size() > end.size() && has(end.c_str(), name.size() - end.size()); };
        return !everywhere() || has("<|", 0) || has("<｜", 0) || ends("|>") || ends("｜>");
    }
};

using marks = std::multimap<size_t, size_t>; // places in a text, each with a number: of a special, or ANY

constexpr size_t DIGITS = 7; // of a number
constexpr size_t ANY = 9'999'999; // the beginning of a text that may go on

std::vector<special> specials; // the longest first, as upstream tries them
std::array<std::vector<size_t>, 256> control; // numbers of those that forge, by their first byte
text secret;

void learn(const llama_vocab * vocab) {
    specials.clear();
    for (llama_token token = 0; token < llama_vocab_n_tokens(vocab); token++) {
        int attributes = llama_vocab_get_attr(vocab, token);
        if (attributes & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_USER_DEFINED | LLAMA_TOKEN_ATTR_UNKNOWN)) {
            text name = llama_vocab_get_text(vocab, token);
            if (!name.empty()) specials.push_back({name, token, attributes});
        }
    }
    std::stable_sort(specials.begin(), specials.end(),
        [](const special & a, const special & b) { return a.name.size() > b.name.size(); });
    control = {};
    for (size_t i = 0; i < specials.size(); i++) {
        if (specials[i].forges()) control[static_cast<unsigned char>(specials[i].name[0])].push_back(i);
    }
    std::random_device random;
    char digits[21];
    snprintf(digits, sizeof digits, "%010u%010u", random(), random());
    secret = digits;
}

text mark(size_t number) {
    char digits[DIGITS + 1];
    snprintf(digits, sizeof digits, "%07zu", number);
    return secret + digits;
}

// Take the marks out of a text; where they stood, if asked.
void unmark(text & from, marks * found = nullptr) {
    size_t at = secret.empty() ? text::npos : from.find(secret);
    if (at == text::npos) return;
    text rest = from.substr(0, at);
    for (size_t next; at != text::npos; at = next) {
        size_t end = std::min(at + secret.size() + DIGITS, from.size());
        if (found) found->emplace(rest.size(), strtoul(from.substr(at + secret.size(), DIGITS).c_str(), nullptr, 10));
        next = from.find(secret, end);
        rest.append(from, end, next == text::npos ? next : next - end);
    }
    from = rest;
}

// What a JSON escape stands for, and its end; a backslash that is none stands for itself.
text escaped(const text & in, size_t at, size_t & end) {
    static const text letters = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
    size_t letter = at + 1 < in.size() ? letters.find(in[at + 1]) : text::npos;
    end = at + (letter == text::npos ? 1 : 2);
    if (letter != text::npos) return meant.substr(letter, 1);
    unsigned unit = 0, low = 0;
    int read = 0;
    if (sscanf(in.substr(at, 6).c_str(), "\\u%4x%n", &unit, &read) != 1 || read != 6) return "\\";
    end += 5;
    if (unit >> 10 == 0x36 && sscanf(in.substr(end, 6).c_str(), "\\u%4x%n", &low, &read) == 1 && read == 6) {
        unit = 0x10000 + ((unit & 0x3ff) << 10) + (low & 0x3ff);
        end += 6;
    }
    return unit >> 11 == 0x1b ? "?" : unicode_cpt_to_utf8(unit); // half a pair is no character
}

// The beginning of a text, read as JSON: tool calls, and what a template is set to, are read so after they have been marked.
text unescaped(const text & in, size_t at, size_t most) {
    text plain;
    for (size_t end; plain.size() < most && at < in.size(); at = end) {
        end = at + 1;
        plain += in[at] == '\\' ? escaped(in, at, end) : text(1, in[at]);
    }
    return plain;
}

// The number of the longest text that forges and that another begins with, or ANY.
size_t forges(const text & in, size_t at) {
    const auto & numbers = control[static_cast<unsigned char>(in[at])];
    auto found = std::find_if(numbers.begin(), numbers.end(),
        [&](size_t i) { return in.compare(at, specials[i].name.size(), specials[i].name) == 0; });
    return found == numbers.end() ? ANY : *found;
}

// Put the marks in. Parts of a message may follow one another with nothing between: where free text ends in the beginning of
// a control token's text, spaces aside, it has a mark as well.
bool add_marks(text & to, bool free) {
    size_t end = to.find_last_not_of(" \t\r\n") + 1;
    size_t next_escape = 0, done = 0;
    bool json = to.find('\\') != text::npos;
    text result;
    for (size_t at = 0; at < to.size(); at++) {
        bool escape = to[at] == '\\' && at >= next_escape;
        const auto & numbers = control[static_cast<unsigned char>(to[at])];
        if (!escape && numbers.empty()) continue;
        size_t number = forges(to, at);
        if (number == ANY && json) {
            text plain = unescaped(to, at, specials[0].name.size());
            number = forges(plain, 0);
        }
        bool begins = free && at < end && std::any_of(numbers.begin(), numbers.end(), [&](size_t i) {
            const text & name = specials[i].name;
            return name.size() > end - at && to.compare(at, end - at, name, 0, end - at) == 0;
        });
        if (number != ANY || begins) {
            result.append(to, done, at - done).append(mark(begins ? ANY : number));
            done = at;
        }
        if (escape) escaped(to, at, next_escape);
    }
    if (done == 0 && result.empty()) return false;
    to = result.append(to, done);
    return true;
}

// What upstream's tokenizer_st_partition() makes of a text: pieces that are a special token, and those between.
struct piece {
    size_t begin, end;
    const special * is;
};

// The same, but for what is guarded. Where that is a text that upstream looks for everywhere, it is cut behind its first
// character.
std::vector<piece> partition(const text & prompt, const marks & guarded, std::set<size_t> & cuts) {
    std::vector<piece> pieces = {{0, prompt.size(), nullptr}};
    for (const special & wanted : specials) {
        size_t size = wanted.name.size();
        if (prompt.find(wanted.name) == text::npos) continue;
        auto refused = [&](size_t at) { // where a mark stands for this text, or for a longer one that begins with it
            auto [first, last] = guarded.equal_range(at);
            return wanted.forges() && std::any_of(first, last, [&](const auto & guard) {
                return guard.second >= specials.size() || specials[guard.second].name.compare(0, size, wanted.name) == 0;
            });
        };
        std::vector<piece> finer;
        for (const piece & whole : pieces) {
            size_t from = whole.begin, at = whole.is != nullptr ? text::npos : prompt.find(wanted.name, from);
            while (at != text::npos && at + size <= whole.end) {
                if (refused(at)) {
                    if (wanted.everywhere()) cuts.insert(at + 1);
                    at = prompt.find(wanted.name, at + 1);
                    continue;
                }
                size_t left = at;
                while ((wanted.attributes & LLAMA_TOKEN_ATTR_LSTRIP) && left > from && isspace(prompt[left - 1])) left--;
                if (left > from) finer.push_back({from, left, nullptr});
                finer.push_back({at, at + size, &wanted});
                from = at + size;
                while ((wanted.attributes & LLAMA_TOKEN_ATTR_RSTRIP) && from < whole.end && isspace(prompt[from])) from++;
                at = prompt.find(wanted.name, from);
            }
            if (from < whole.end) finer.push_back({from, whole.end, whole.is});
        }
        pieces = finer;
    }
    return pieces;
}

} // namespace

common_chat_templates_ptr learning_init(const llama_model * model, const text & chat, const text & bos, const text & eos) {
    if (model != nullptr) learn(llama_model_get_vocab(model));
    return upstream_init(model, chat, bos, eos);
}

common_chat_params marking_apply(const templates * chat, const inputs & given) {
    console::set_zone(); // the template may write the date
    inputs all = given;
    bool any = false;
    auto guard = [&](text & to, bool free = false) { any |= add_marks(to, free); };
    for (auto & message : all.messages) {
        guard(message.content, true);
        guard(message.reasoning_content, true);
        for (auto & part : message.content_parts) guard(part.text, true);
        for (text * name : {&message.role, &message.tool_name, &message.tool_call_id}) guard(*name);
        for (auto & call : message.tool_calls) {
            for (text * field : {&call.name, &call.arguments, &call.id}) guard(*field);
        }
    }
    for (auto & tool : all.tools) {
        for (text * field : {&tool.name, &tool.description, &tool.parameters}) guard(*field);
    }
    guard(all.json_schema);
    for (auto & setting : all.chat_template_kwargs) guard(setting.second);
    if (!any) return upstream_apply(chat, given);

    common_chat_params result = upstream_apply(chat, all);
    for (text * made : {&result.grammar, &result.generation_prompt, &result.parser}) unmark(*made);
    for (auto & trigger : result.grammar_triggers) unmark(trigger.value);
    return result;
}

llama_tokens guarded_tokenize(const llama_vocab * vocab, const text & prompt, bool add_special, bool parse_special) {
    text clean = prompt;
    marks guarded;
    unmark(clean, &guarded);
    if (guarded.empty() || !parse_special) return upstream_tokenize(vocab, clean, add_special, parse_special);
    llama_tokens tokens;
    if (add_special && llama_vocab_get_add_bos(vocab)) tokens.push_back(llama_vocab_bos(vocab));
    std::set<size_t> cuts;
    for (const piece & part : partition(clean, guarded, cuts)) {
        if (part.is != nullptr) {
            tokens.push_back(part.is->token);
            continue;
        }
        for (size_t begin = part.begin, end; begin < part.end; begin = end) {
            auto cut = cuts.upper_bound(begin);
            end = cut == cuts.end() ? part.end : std::min(*cut, part.end);
            llama_tokens some = upstream_tokenize(vocab, clean.substr(begin, end - begin), false, false);
            tokens.insert(tokens.end(), some.begin(), some.end());
        }
    }
    if (add_special && llama_vocab_get_add_eos(vocab)) tokens.push_back(llama_vocab_eos(vocab));
    return tokens;
}

text clean_answer(const common_json & answer) {
    text shown = upstream_answer(answer);
    unmark(shown);
    return shown;
}
