// llama.cpp's connections of its RPC engine, with two additions for a server.
//
// It may get its connections from the relay beside it, as file descriptors over a socket that it has inherited: then it
// needs no right to make any socket, which is how it runs outside of a guest (docs/security.md). And while it waits for the
// other end, worker.cpp knows.
//
// Upstream's source is included, with the names of the system calls replaced.
#include "ggml-impl.h"
#include "transport.h"
#include "worker.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <optional>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

namespace {

int inherited = -1;

// Return the next connection that the relay hands over, -1 if it has gone.
int handed() {
    char byte;
    iovec one = {&byte, 1};
    alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))];
    msghdr message = {};
    message.msg_iov = &one;
    message.msg_iovlen = 1;
    message.msg_control = space;
    message.msg_controllen = sizeof space;
    waiting wait;
    ssize_t got;
    do {
        got = recvmsg(inherited, &message, 0);
    } while (got < 0 && errno == EINTR);
    const cmsghdr * header = got > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
    if (header == nullptr || header->cmsg_type != SCM_RIGHTS) {
        return -1;
    }
    int fd;
    memcpy(&fd, CMSG_DATA(header), sizeof fd);
    return fd;
}

int own_socket(int domain, int type, int protocol) {
    return inherited >= 0 ? inherited : socket(domain, type, protocol);
}

int own_setsockopt(int fd, int level, int name, const void * value, socklen_t size) {
    return inherited >= 0 ? 0 : setsockopt(fd, level, name, value, size); // those of TCP
}

int own_bind(int fd, const sockaddr * address, socklen_t size) {
    return inherited >= 0 ? 0 : bind(fd, address, size);
}

int own_listen(int fd, int queue) {
    return inherited >= 0 ? 0 : listen(fd, queue);
}

ssize_t own_recv(int fd, void * bytes, size_t size, int flags) {
    waiting wait;
    return recv(fd, bytes, size, flags);
}

ssize_t own_send(int fd, const void * bytes, size_t size, int flags) {
    waiting wait;
    return send(fd, bytes, size, flags);
}

} // namespace

int accept_own(int fd, sockaddr * address, socklen_t * size) {
    if (inherited >= 0) {
        return handed();
    }
    waiting wait;
    return accept(fd, address, size);
}

void inherit(int fd) {
    inherited = fd;
}

#define socket own_socket
#define setsockopt own_setsockopt
#define bind own_bind
#define listen own_listen
#define recv own_recv
#define send own_send
#define accept(...) accept##__VA_OPT__(_own)(__VA_ARGS__) // the one with arguments, and not the member
#include "ggml-rpc/transport.cpp"
