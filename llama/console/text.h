// Text on its way to a terminal: written at once, and taken apart into the characters that a person sees.
#pragma once

#include <poll.h>
#include <unistd.h>
#include <wchar.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>

namespace {

constexpr int FOREVER = -1; // for poll()
std::atomic<bool> failed = false; // an error was shown, or the answer could not be written

// ---- Output. No stdio: its locks may be held when a signal handler calls exit() and with it cleanup().

void emit(std::string_view text, int fd = STDOUT_FILENO) {
    while (!text.empty()) {
        ssize_t written = write(fd, text.data(), text.size());
        if (written >= 0) {
            text.remove_prefix(written);
        } else if (errno == EAGAIN) {
            pollfd room = {fd, POLLOUT, 0};
            poll(&room, 1, FOREVER);
        } else if (errno != EINTR) {
            failed = failed || fd == STDOUT_FILENO; // standard error may be closed
            return;
        }
    }
}

// ---- UTF-8. A character's width is wcwidth()'s: what most terminals go by.

constexpr size_t INVALID = -1, INCOMPLETE = -2; // as mbrtowc() says it
constexpr wchar_t ZERO_WIDTH_JOINER = 0x200d;

size_t decode(const std::string & text, size_t at, wchar_t & c) {
    std::mbstate_t state = {};
    size_t length = mbrtowc(&c, text.data() + at, text.size() - at, &state);
    return length == 0 ? 1 : length; // NUL is a character, too
}

bool is_control(wchar_t c) { return c < 0x20 || (c >= 0x7f && c < 0xa0); }

int width(wchar_t c) {
    bool emoji = (c >= 0x1f90c && c <= 0x1f9ff) || (c >= 0x1fa70 && c <= 0x1faff); // musl knows those of Unicode 12
    return emoji ? 2 : std::max(0, wcwidth(c));
}

// Text that can't drive the terminal: no control characters but newline and tab, nothing that is not UTF-8.
std::string clean(const std::string & text) {
    std::string kept;
    wchar_t c = 0;
    for (size_t at = 0, length = 0; at < text.size(); at += length) {
        length = decode(text, at, c);
        if (length == INVALID || length == INCOMPLETE) {
            length = 1;
        } else if (!is_control(c) || c == '\n' || c == '\t') {
            kept.append(text, at, length);
        }
    }
    return kept;
}

// The end of what is one character to a person: a base character with what combines with it.
size_t next(const std::string & text, size_t at) {
    wchar_t before = 0, c = 0;
    while (at < text.size()) {
        size_t length = decode(text, at, c);
        bool skin_tone = c >= 0x1f3fb && c <= 0x1f3ff;
        bool joined = wcwidth(c) == 0 || skin_tone || before == ZERO_WIDTH_JOINER;
        if (before == '\n' || (before != 0 && (!joined || c == '\n'))) break;
        at += length;
        before = c;
    }
    return at;
}

size_t line_start(const std::string & text, size_t at) { return at == 0 ? 0 : text.rfind('\n', at - 1) + 1; }

size_t line_end(const std::string & text, size_t at) { return std::min(text.find('\n', at), text.size()); }

size_t previous(const std::string & text, size_t at) {
    size_t start = line_start(text, at);
    if (start == at) return at == 0 ? 0 : at - 1;
    for (size_t end = next(text, start); end < at; end = next(text, end)) {
        start = end;
    }
    return start;
}

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t'; }

size_t word_left(const std::string & text, size_t at) {
    while (at > 0 && is_space(text[at - 1])) { at--; }
    while (at > 0 && !is_space(text[at - 1])) { at--; }
    return at;
}

size_t word_right(const std::string & text, size_t at) {
    while (at < text.size() && is_space(text[at])) { at++; }
    while (at < text.size() && !is_space(text[at])) { at++; }
    return at;
}

} // namespace
