/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TOOLS_BRIDGE_BRIDGE_H
#define TOOLS_BRIDGE_BRIDGE_H
/*
 * What the parts of the bridge share: the command line as read, and the line on stderr. main.c
 * tells the whole. All sizes are bytes.
 */
#include "virtio/device/bridge_spec.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdnoreturn.h>

#define LEN(a) (sizeof(a) / sizeof((a)[0]))

/* One --sibling. Strings live as long as the process. */
struct sibling_config {
    const char *name;
    const char *vhost, *ivshmem, *memory; /* paths */
    uint64_t size;                        /* of its memory, as asked for */
};

struct config {
    const char *relay;
    struct sibling_config sibling[BRIDGE_SIBLINGS];
    unsigned siblings;
    unsigned direct;   /* ring starts with a vector and a peer of their own, per sibling */
    unsigned timeout;  /* milliseconds that a sibling waits for the storage VM */
    char **storage_vm; /* command to run, or NULL */
};
extern struct config config;

/* Reads the command line into `config`; what is wrong ends the process with status 1. */
void options_read(int argc, char **argv);

/* One line on stderr: "bridge: ...". */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
noreturn void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The keeper's life (keeper.c): returns the exit status of the whole. */
int keeper_run(int storage_vm);
/* The worker's (worker.c), with its socket to the keeper. */
noreturn void worker_run(int keeper);

/* paths.c. Opens, makes and pads the memory file of a sibling; ends the process if it cannot. */
int memory_open(const struct sibling_config *);
/* A listening socket at this path, in place of one that nobody serves any more; or -1, errno. */
int listen_at(const char *path);
/* Ends the process when somebody serves this path, or something else is there. */
void path_must_be_free(const char *path);

/* storage_vm.c. Forks the process that runs the storage VM and returns a socket to it, -1 without
 * --storage-vm. It waits for storage_vm_go, and ends when the socket is closed. */
int storage_vm_prepare(void);
void storage_vm_go(int fd);

/* sandbox.c. From here on this process may do what its part needs and nothing else. */
void sandbox_keeper(void);
void sandbox_worker(void);
/* Worker: the system call that waits a second from now ends with EINTR. */
void limit_waits(void);
#endif
