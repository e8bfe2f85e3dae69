// The terminal side of llama-cli, in place of upstream's common/console.cpp.
//
// Upstream's line editor moves its cursor with \b, which does not go back over a wrapped line in real terminals; it
// takes no notice of a resize, submits a paste at its first newline, and decorates an answer that goes into a pipe.
// This has three modes:
//
//   editing  a terminal: a multi-line editor, drawn anew as a whole after each change as linenoise does it
//   plain    simple_io, TERM=dumb, or no terminal to read from: the kernel's line editing and no escape sequences
//   piped    standard output is no terminal: it gets the answer alone, errors go to standard error, nothing is read
//
// Upstream's header is included: a changed signature stops the compiler. What is taken from upstream's tools/cli beyond
// the header is said where it is used.
#include "console.h"

#include "editor.h"
#include "hot.h"
#include "log.h"

#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <clocale>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace {

enum class mode { editing, plain, piped };
std::atomic<mode> current_mode = mode::plain; // also read by the thread that tells signs of life
bool colours = false;
bool log_written = false; // nothing was logged since
std::atomic<bool> resting = false;
void (*when_prompted)() = nullptr;
display_type current_display = DISPLAY_TYPE_RESET;
bool error_shown = false;
bool chat_over = false; // by Ctrl+C twice, the second time when the answer had just stopped
bool answered = false;
bool serves = false;
std::atomic<int> failure = 1; // the exit status after an error in an answer, or without one
std::atomic<bool> restored = false; // the terminal is as it was before init()
termios initial_state;

// exit() may run in a signal handler while these are in use: they are never destroyed.
std::string & last_line = *new std::string; // what the cursor's line shows; the prompt, when a line is about to be read
editor & line_editor = *new editor;

// ---- Text

std::mutex & telling_life = *new std::mutex; // no "loading" comes after "prompt"

// The host learns that the chat can begin: the model is loaded.
void begin_chat() {
    std::lock_guard<std::mutex> lock(telling_life);
    if (!chat_began.exchange(true)) {
        console::tell("prompt\n");
    }
}

std::string formatted(const char * format, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    std::string text(std::max(0, vsnprintf(nullptr, 0, format, again)) + 1, '\0');
    va_end(again);
    vsnprintf(text.data(), text.size(), format, arguments);
    text.pop_back();
    return clean(text); // also what does not come from the model: a file's name, say
}

// Whether a piece of text is the model's answer. This relies on tools/cli/cli-ui.h: in no colour, after a user's turn,
// only assistant_turn::push() uses the format "%s" (messages are "%s\n", reasoning has its colour). The newline that
// ends an answer comes also when only a thought was ended, so it counts only if the answer's last line is open.
bool is_answer(const char * format, const std::string & text) {
    static bool open = false;
    if (!chat_began || current_display != DISPLAY_TYPE_RESET || text.empty()) return false;
    if (strcmp(format, "%s") == 0) {
        open = text.back() != '\n';
        answered = true;
        return true;
    }
    return strcmp(format, "\n") == 0 && std::exchange(open, false);
}

void show(const std::string & text) {
    emit(text);
    size_t newline = text.rfind('\n');
    if (newline != std::string::npos) {
        last_line.clear();
    }
    last_line += text.substr(newline + 1);
}

// ---- The spinner: how much of the model's file is read

std::string size_name(double bytes) {
    char name[32];
    bool large = bytes >= 999.5e6;
    snprintf(name, sizeof name, large ? "%.1f GB" : "%.0f MB", bytes / (large ? 1e9 : 1e6));
    return name;
}

const char * environment(const char * name, const char * otherwise) {
    const char * value = getenv(name);
    return value == nullptr ? otherwise : value;
}

double model_size() { // of all its parts; 0: unknown
    double size = 0;
    std::error_code error;
    std::filesystem::directory_iterator file(environment("ZOSIA_MODELS", "/models"), error), end;
    for (; !error && file != end; file.increment(error)) {
        if (file->path().extension() == ".gguf") size += static_cast<double>(file->file_size(error));
    }
    return size;
}

double bytes_read() { // -1: unknown
    std::ifstream stat(environment("ZOSIA_DISK_STAT", "/sys/block/vda/stat"));
    double requests = 0, merged = 0, sectors = 0;
    return stat >> requests >> merged >> sectors ? sectors * 512 : -1;
}

std::string progress(std::chrono::steady_clock::time_point start) {
    double size = model_size(), read = bytes_read();
    if (size > 0 && read >= 0) {
        int percent = static_cast<int>(std::min(100.0, 100 * read / size));
        return "loading " + size_name(size) + ": " + std::to_string(percent) + " %";
    }
    auto elapsed = std::chrono::steady_clock::now() - start;
    return "loading: " + std::to_string(std::chrono::duration_cast<std::chrono::seconds>(elapsed).count()) + " s";
}

// Never destroyed, as above; a thread that runs on at exit() would even end the program with abort().
std::thread * spinning = nullptr;
std::mutex & spinner_mutex = *new std::mutex;
std::condition_variable & spinner_stopped = *new std::condition_variable;

// Signs of life for the host, which ends a machine that gives none: only while something is read or computed. A chat
// may wait for its person as long as it likes.
void live() {
    // What workers compute takes no time here, and the relays see whether they live.
    bool waits = getenv("ZOSIA_WORKERS") != nullptr;
    double told_bytes = -1;
    clock_t told_time = 0;
    for (; !chat_began || current_mode == mode::piped; std::this_thread::sleep_for(std::chrono::seconds(1))) {
        if (resting) continue;
        double bytes = bytes_read();
        clock_t time = clock(); // of all threads
        if (waits || bytes != told_bytes || time - told_time > CLOCKS_PER_SEC / 5) {
            long read = std::max(0.0, bytes), size = bytes < 0 ? 0 : model_size();
            std::lock_guard<std::mutex> lock(telling_life);
            if (chat_began && current_mode != mode::piped) return;
            console::tell(chat_began ? "working\n" : "loading " + std::to_string(read) + " " + std::to_string(size) + "\n");
            told_bytes = bytes;
            told_time = time;
        }
    }
}

void spin() {
    auto start = std::chrono::steady_clock::now();
    std::unique_lock<std::mutex> lock(spinner_mutex);
    do {
        if (!restored) {
            spinner_drawn = true;
            emit("\r" + progress(start) + "\x1b[K");
        }
    } while (!spinner_stopped.wait_for(lock, std::chrono::milliseconds(200), [] { return spinning == nullptr; }));
}

} // namespace

void console::tell(const std::string & line) {
    const char * number = getenv("ZOSIA_STATUS");
    char * end = nullptr;
    long fd = number == nullptr ? -1 : strtol(number, &end, 10);
    if (fd >= 0 && fd <= INT_MAX && end != number && *end == '\0') {
        (void) !write(static_cast<int>(fd), line.data(), line.size());
    }
}

void console::rest() {
    common_log_flush(common_log_main());
    log_written = resting = true;
}

void console::go_on() {
    resting = false;
}

void console::at_prompt(void (*call)()) {
    when_prompted = call;
}

void console::answer_only(int fd) {
    dup2(fd, STDOUT_FILENO);
    close(fd);
    colours = false;
    current_mode = mode::piped;
}

void console::end_with(int status) {
    failure = status;
}

void console::serve() {
    serves = true;
    std::thread(live).detach();
}

bool console::serving() {
    return serves;
}

void console::begin() {
    begin_chat();
}

void console::spinner::start() {
    std::lock_guard<std::mutex> lock(spinner_mutex);
    if (spinning != nullptr || current_mode == mode::piped) return;
    if (current_mode == mode::plain) {
        static std::atomic<bool> told = false;
        if (told.exchange(true)) return;
        double size = model_size();
        emit("loading" + (size > 0 ? " " + size_name(size) : "") + "\n");
        return;
    }
    common_log_flush(common_log_main());
    spinning = new std::thread(spin);
}

void console::spinner::stop() {
    std::thread * ended = nullptr;
    {
        std::lock_guard<std::mutex> lock(spinner_mutex);
        ended = std::exchange(spinning, nullptr);
    }
    if (ended == nullptr) return;
    spinner_stopped.notify_all();
    ended->join();
    delete ended;
    emit(ERASE_LINE);
    spinner_drawn = false;
}

// ---- What upstream calls

namespace console {

void init(bool use_simple_io, bool use_advanced_display) {
    setlocale(LC_ALL, "");
    setlocale(LC_CTYPE, "C.UTF-8"); // whatever LANG says: llama.cpp and the host's terminals know nothing else
    const char * terminal = getenv("TERM");
    bool capable = terminal != nullptr && terminal[0] != '\0' && strcmp(terminal, "dumb") != 0;
    catch_signals();
    if (!isatty(STDOUT_FILENO)) {
        current_mode = mode::piped;
    } else if (tcgetattr(STDIN_FILENO, &initial_state) == 0) {
        termios state = initial_state;
        if (use_simple_io || !capable) { // zosia's /init leaves the terminal without echo and lines
            state.c_lflag |= ICANON | ECHO | ISIG;
            state.c_iflag |= ICRNL;
        } else {
            current_mode = mode::editing;
            colours = use_advanced_display;
            // Until cleanup(): what is typed during an answer is not echoed, and is there at the next prompt.
            state.c_lflag &= ~(ICANON | ECHO | IEXTEN);
            state.c_lflag |= ISIG;
            state.c_iflag &= ~(IXON | ICRNL);
            state.c_cc[VQUIT] = state.c_cc[VSUSP] = _POSIX_VDISABLE;
            state.c_cc[VMIN] = 1;
            state.c_cc[VTIME] = 0;
        }
        tcsetattr(STDIN_FILENO, TCSANOW, &state);
    }
    std::thread(live).detach();
}

// Called by exit(), maybe in a signal handler while any other function here is at work: no lock, no allocation.
void cleanup() {
    if (current_mode == mode::piped && chat_began && (failed || !answered)) {
        emit(failed || failure != 1 ? "" : "the answer is empty\n", STDERR_FILENO);
        _exit(failure);
    }
    if (current_mode != mode::editing || restored.exchange(true)) return;
    emit(bracketed_paste ? "\x1b[?2004l" : "");
    emit(colours ? "\x1b[0m" : "");
    tcsetattr(STDIN_FILENO, TCSANOW, &initial_state);
}

void set_display(display_type display) {
    if (display == DISPLAY_TYPE_USER_INPUT) {
        begin_chat();
        chat_over = line_editor.begin_turn();
    }
    if (display == current_display) return;
    current_display = display;
    if (colours) {
        if (!std::exchange(log_written, false)) {
            common_log_flush(common_log_main()); // what others wrote before keeps its colour
        }
        switch (display) {
            case DISPLAY_TYPE_RESET: emit("\x1b[0m"); break;
            case DISPLAY_TYPE_INFO: emit("\x1b[35m"); break;
            case DISPLAY_TYPE_PROMPT: emit("\x1b[33m"); break;
            case DISPLAY_TYPE_REASONING: emit("\x1b[90m"); break;
            case DISPLAY_TYPE_USER_INPUT: emit("\x1b[1m\x1b[32m"); break;
            case DISPLAY_TYPE_ERROR: emit("\x1b[1m\x1b[31m"); break;
        }
    }
}

bool readline(std::string & line, bool multiline_input) {
    begin_chat();
    if (when_prompted != nullptr) std::exchange(when_prompted, nullptr)();
    line.clear();
    bool read = chat_over                     ? false
              : current_mode == mode::editing ? line_editor.read(last_line, line)
              : current_mode == mode::plain   ? static_cast<bool>(std::getline(std::cin, line))
                                              : false;
    if (!read) {
        line.clear();
        return false;
    }
    last_line.clear();
    // As upstream's readline_simple(); a backslash that the editor leaves is none that continues.
    if (!line.empty() && line.back() == '/' && multiline_input) {
        line.pop_back();
        multiline_input = false;
    } else if (!line.empty() && line.back() == '\\' && current_mode == mode::plain) {
        line.pop_back();
        multiline_input = !multiline_input;
    }
    line += '\n';
    return multiline_input;
}

void set_completion_callback(completion_callback callback) { line_editor.complete = std::move(callback); }

void log(const char * format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::string text = formatted(format, arguments);
    va_end(arguments);
    if (!chat_began && !error_shown) {
        return; // "Loading model..."
    }
    if (is_answer(format, text) || current_mode != mode::piped) {
        show(text);
    }
}

void error(const char * format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::string text = formatted(format, arguments);
    va_end(arguments);
    error_shown = failed = true;
    display_type before = current_display;
    set_display(DISPLAY_TYPE_ERROR);
    if (current_mode == mode::piped) {
        emit(text, STDERR_FILENO);
    } else {
        show(text);
    }
    set_display(before);
}

void flush() {} // nothing is held back

} // namespace console
