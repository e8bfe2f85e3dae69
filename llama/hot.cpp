// The point at which the model is loaded, and nobody has asked anything: here a machine with a host waits for what it is
// asked, and the host may save it, and resume it as often as it likes. Only with ZOSIA_BEGIN in the environment, the name of
// the fifo that tells /init when the wait is over.
//
// To the host: "loaded KIB", the memory in use, and after a "warm" the same with "warmed". From the host, a line each:
//   size ROWS COLUMNS
//   warm                            evaluate what all chats begin with
//   begin TIME ENTROPY ROWS COLUMNS SAMPLING ASKED ZONE FILES
//
// With "begin" it goes on. TIME is in seconds since 1970, ENTROPY in hexadecimal digits: what siblings of one state must not
// share. Both are set before anything is drawn from them: llama.cpp seeds its samplers anew for each answer. SAMPLING and
// ASKED are numbers of bytes that come after the line: fields of each request to the server, in JSON with a comma after each,
// and what is asked once, nothing for a chat. ZONE is the host's offset from UTC in seconds: templates write dates. FILES is the
// number of files that come then, for the question as far as there is room: of each a line with its size in bytes, and its
// text.
//
// A machine that was saved after "begin", with a chat in it, gets three of them anew by a line "wake TIME ENTROPY ZONE", which
// /init reads.
//
// It stands in place of upstream's cli_context::run(), and before its server_context::start_loop(), by way of the linker
// (--wrap), as in loading.cpp. A machine that chats can't be saved without the first, one that serves without the second.
#include "cli-context.h"
#include "console.h"
#include "console/hot.h"
#include "json.h"
#include "room.h"
#include "server-context.h"
#include "talk.h"

#include <fcntl.h>
#include <linux/random.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>

#define RUN "_ZN11cli_context3runEv"
int hot_run(cli_context * context) __asm__("__wrap_" RUN);

#define LOOP "_ZN14server_context10start_loopEv"
void upstream_loop(server_context * context) __asm__("__real_" LOOP);
void hot_loop(server_context * context) __asm__("__wrap_" LOOP);

namespace {

int host = -1;
std::string sampling;
bool warmed = false;
bool no_room = false; // for any file of the question
constexpr char ZONE[] = "/run/zone";

// Exactly so many bytes, for /init reads what comes after them. Without the host there is nothing to wait for.
std::string taken(size_t size) {
    std::string bytes(size, '\0');
    for (size_t at = 0; at < size;) {
        ssize_t got = read(host, &bytes[at], size - at);
        if (got == 0 || (got < 0 && errno != EINTR)) _exit(130);
        at += std::max<ssize_t>(got, 0);
    }
    return bytes;
}

std::string line() {
    std::string text;
    for (std::string byte; (byte = taken(1)) != "\n";) {
        text += byte;
    }
    return text;
}

// Streams read numbers by way of locales and, for a fraction, of 128 bits: a tenth of what a resumed machine computes.
long number(std::istream & words) {
    std::string word;
    words >> word;
    return strtol(word.c_str(), nullptr, 10);
}

void set_size(std::istream & words) {
    winsize size = {};
    size.ws_row = static_cast<unsigned short>(number(words));
    size.ws_col = static_cast<unsigned short>(number(words));
    if (size.ws_row > 0 && size.ws_col > 0) {
        ioctl(STDIN_FILENO, TIOCSWINSZ, &size);
    }
}

void set_clock(const std::string & seconds) { // with nine digits of their fraction
    timespec now = {};
    char * fraction = nullptr;
    now.tv_sec = strtol(seconds.c_str(), &fraction, 10);
    now.tv_nsec = *fraction == '.' ? strtol(fraction + 1, nullptr, 10) : 0;
    clock_settime(CLOCK_REALTIME, &now);
}

// A zone for TZ, where east of Greenwich is negative.
std::string zone_of(long seconds) {
    auto two = [](long part) { return (part < 10 ? "0" : "") + std::to_string(part); };
    std::string hours = two(std::labs(seconds) / 3600), minutes = two(std::labs(seconds) / 60 % 60);
    std::string east = seconds < 0 ? "-" : "+", zone = seconds < 0 ? "+" : "-";
    return "<" + east + hours + minutes + ">" + zone + hours + ":" + minutes + ":" + two(std::labs(seconds) % 60);
}

// The kernel's own generator: what is added counts, and it is seeded anew at once, not when it is next due.
void add_entropy(const std::string & digits) {
    struct { // rand_pool_info, with room
        int entropy_count, buf_size;
        unsigned char bytes[64];
    } entropy = {};
    size_t size = std::min(digits.size() / 2, sizeof entropy.bytes);
    for (size_t i = 0; i < size; i++) {
        entropy.bytes[i] = static_cast<unsigned char>(strtol(digits.substr(2 * i, 2).c_str(), nullptr, 16));
    }
    entropy.entropy_count = static_cast<int>(8 * size); // bits
    entropy.buf_size = static_cast<int>(size);
    int random = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
    if (ioctl(random, RNDADDENTROPY, &entropy) != 0 || ioctl(random, RNDRESEEDCRNG) != 0) {
        fprintf(stderr, "zosia: the random numbers can't be seeded anew: %s\n", strerror(errno));
        _exit(1); // or two machines would give the same answers
    }
    close(random);
}

std::string memory_used() { // KiB
    std::ifstream info("/proc/meminfo");
    std::string name, unit;
    long size = 0, total = 0, free = 0;
    while (info >> name >> size && std::getline(info, unit)) {
        total = name == "MemTotal:" ? size : total;
        free = name == "MemFree:" ? size : free;
    }
    return std::to_string(total - free);
}

bool connected() { // to the server, or it to us: neither listening nor waiting for what may be late
    std::ifstream table("/proc/net/tcp");
    std::string number, local, remote, state, rest;
    std::getline(table, rest);
    while (table >> number >> local >> remote >> state && std::getline(table, rest)) {
        if (state != "0A" && state != "06") return true; // include/net/tcp_states.h
    }
    return false;
}

// Let the last request end, with its connection, and what was logged be written. Else each resumed machine would do so before
// its prompt, in a kernel of which its emulator has yet to translate every instruction.
void come_to_rest() {
    int tries = 0;
    do {
        usleep(2000);
    } while (connected() && ++tries < 100);
    console::rest();
}

// The system prompt, or what the model's template has in its place, up to where the question begins: the server keeps it,
// and goes on from what two requests have in common.
void warm(cli_context * context) {
    if (std::exchange(warmed, true) || context == nullptr) return; // a server's clients have nothing in common
    console::spinner::start();
    const std::string question = "(the question)";
    common_json messages = common_json::array();
    if (!context->params.system_prompt.empty()) {
        messages.push_back({{"role", "system"}, {"content", context->params.system_prompt}});
    }
    messages.push_back({{"role", "user"}, {"content", question}});
    common_json body = {{"messages", messages}};
    try {
        std::string text = common_json::parse(context->client.post("/apply-template", body.dump())).value("prompt", "");
        size_t end = text.rfind(question);
        if (end != std::string::npos && end > 0) {
            common_json prefix = {{"prompt", text.substr(0, end)}, {"n_predict", 1}};
            context->client.post("/completion", prefix.dump());
        }
    } catch (const std::exception &) { // the first question will say what is wrong
    }
    console::spinner::stop();
}

// Wait until the host says that it begins; returns what is asked once. There is no context where a server waits.
std::string wait_for_host(cli_context * context) {
    come_to_rest();
    console::tell("loaded " + memory_used() + "\n");
    for (;;) {
        std::istringstream words(line());
        std::string word;
        words >> word;
        if (word == "size") {
            set_size(words);
        } else if (word == "warm") {
            console::go_on();
            warm(context);
            come_to_rest();
            console::tell("warmed " + memory_used() + "\n");
        } else if (word == "begin") {
            std::string seconds, entropy;
            words >> seconds >> entropy;
            set_clock(seconds);
            add_entropy(entropy);
            set_size(words);
            auto fields = static_cast<size_t>(number(words)), asked = static_cast<size_t>(number(words));
            long zone = number(words);
            auto files = static_cast<size_t>(number(words));
            if (asked > 0) console::go_on(); // a chat's prompt comes at once
            setenv("TZ", zone_of(zone).c_str(), 1);
            sampling = taken(fields);
            std::string question = taken(asked);
            if (files == 0 || context == nullptr) return question;
            usleep(1000); // as in `begun`
            console::tell("working\n"); // all that comes now takes its time
            question = with_files(*context, question, files, [] { return taken(std::stoul(line())); });
            no_room = question.empty();
            return question;
        }
    }
}

// The same, if there is a host.
std::string begun(cli_context * context) {
    const char * fifo = getenv("ZOSIA_BEGIN");
    const char * status = getenv("ZOSIA_STATUS");
    if (fifo == nullptr || status == nullptr) return "";
    host = atoi(status);
    std::string prompt = wait_for_host(context);
    usleep(1000); // where a resumed machine's timers stand still the host hears nothing more, and boots one
    auto pass_on = [] { // from here /init reads what the host says
        close(open(getenv("ZOSIA_BEGIN"), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    };
    if (prompt.empty() && context != nullptr) {
        console::at_prompt(pass_on); // a shell that wakes up would be in its way
    } else {
        pass_on();
    }
    return prompt;
}

} // namespace

int hot_run(cli_context * context) {
    std::string prompt = begun(context);
    if (no_room) return TOO_LONG;
    if (!prompt.empty()) {
        const char * answer = getenv("ZOSIA_ANSWER");
        console::answer_only(open(answer == nullptr ? "" : answer, O_WRONLY | O_CLOEXEC));
        context->params.prompt = prompt;
        context->params.single_turn = true;
    }
    if (context->params.single_turn) {
        warm(context); // the same numbers, to the last bit, saved or not: in other portions they could be others
    }
    return talk(*context, sampling);
}

// Once more after a pause: what was saved later than "begin" waits for nothing. Returns the exit status. Nobody can set
// another process's TZ, so it finds the zone in a file, with its next question.
int console::wake(const std::string & seconds, const std::string & entropy, const std::string & zone) {
    const char * status = getenv("ZOSIA_STATUS");
    host = atoi(status == nullptr ? "" : status);
    set_clock(seconds);
    add_entropy(entropy);
    std::ofstream(ZONE) << zone_of(atol(zone.c_str())) << std::flush;
    tell("prompt\n");
    return 0;
}

// musl looks at TZ for each date. Where a server has several clients, another one may just read the environment, so that
// it is left alone unless the host has another zone now.
void console::set_zone() {
    static std::mutex one;
    std::lock_guard<std::mutex> lock(one);
    std::ifstream file(ZONE);
    std::string zone;
    const char * known = getenv("TZ");
    if (std::getline(file, zone) && (known == nullptr || zone != known)) setenv("TZ", zone.c_str(), 1);
}

void hot_loop(server_context * context) {
    if (console::serving()) {
        begun(nullptr);
        console::begin();
    }
    upstream_loop(context);
}
