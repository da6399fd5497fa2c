/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef AHCI_DEVICE_MODEL_H
#define AHCI_DEVICE_MODEL_H
/*
 * Loopback: our driver against a small host controller with disks in memory, in one process, so that
 * the driver meets the sanitizers and devices that QEMU does not have.
 *
 *     driver (ahci/) -- struct ahci_bus -- registers of struct ahci_model -- ahci_model_disk
 *
 * The model works from a poller, in the turn after the one that wrote CI, so requests are really in
 * flight; a message is sent only when a port's bit of IS goes from 0 to 1, so one that the driver
 * forgot to clear shows as a test that hangs. It does what AHCI 1.3.1 and ACS-3 say of errors: the
 * port stops, SACT and CI of what failed stay, queued commands are refused until log 10h was read.
 *
 * What a driver must not do is counted in `wrong`, with a sentence in `complaint`; the last of them
 * stays. Memory and timing belong to whoever made the model. Loop 0.
 */
#include "ahci/ahci.h"

#define MODEL_PORTS 8u

struct ahci_model_disk {
    uint8_t *data; /* the caller's */
    uint64_t size;
    uint32_t block;  /* logical */
    uint8_t id[512]; /* by ahci_model_disk_init; change before attach */
    bool cd;
    /* knobs */
    bool hold;                     /* takes commands, completes none until it is false */
    bool backwards;                /* queued commands complete in reverse order */
    bool no_log;                   /* does not know READ LOG EXT */
    bool mute;                     /* never completes anything */
    bool busy;                     /* BSY stays after a reset */
    bool stuck_once;               /* the next data command never completes; a reset cures it */
    uint64_t bad_first, bad_count; /* sectors that cannot be read or written */
    unsigned bad_left;             /* how many times; UINT_MAX: always */
    uint64_t stuck_lba;            /* a command that touches it never completes; UINT64_MAX: none */
    unsigned short_by; /* bytes that reads leave out of what is transferred (and out of PRDBC) */
    bool no_medium, tray_open;
    uint8_t attention; /* additional sense code to announce; 0: nothing */
    /* seen */
    uint64_t commands[256], fua, packets[256];
    unsigned most;    /* queued commands in flight */
    uint64_t trimmed; /* sectors */
    /* state */
    uint8_t key, asc, ascq; /* sense */
    bool log_pending;
    uint8_t log_tag, log_error;
};

struct ahci_model_port {
    uint32_t reg[32];             /* as the driver reads them: PX_x / 4 */
    uint32_t queued;              /* accepted by the device */
    bool halted;                  /* until ST is cleared */
    bool stuck;                   /* knob: CR stays */
    struct ahci_model_disk *disk; /* NULL: nothing there */
};
struct ahci_model {
    struct ahci_hba hba; /* the driver's view */
    uint32_t cap, pi, vs, cap2, bohc, ghc, is;
    struct ahci_model_port port[MODEL_PORTS];
    struct poller poller;
    bool no_reset; /* HR stays */
    bool gone;     /* all ones */
    bool cut;
    bool firmware_keeps; /* BOHC.BOS stays */
    unsigned messages, resets, comresets;
    unsigned wrong;
    const char *complaint;
    uint64_t spoil; /* != 0: every register read has random bits, of this seed */
};

/* A sensible controller with `ports` ports, 32 slots, NCQ, 64 bits. */
void ahci_model_init(struct ahci_model *m, unsigned ports);
/* data: size bytes, a multiple of block. A disk with LBA48, NCQ of 32, FUA, TRIM. */
void ahci_model_disk_init(struct ahci_model_disk *d, uint8_t *data, uint64_t size, uint32_t block,
                          const char *serial);
void ahci_model_cd_init(struct ahci_model_disk *d, uint8_t *data, uint64_t size,
                        const char *serial);
void ahci_model_id(struct ahci_model_disk *d, unsigned word, uint16_t value);

int co_ahci_model_attach(struct ahci_model *m);
void co_ahci_model_detach(struct ahci_model *m);
/* Plugs a disk in, or (NULL) pulls what is there, whatever is in flight. */
void ahci_model_plug(struct ahci_model *m, unsigned port, struct ahci_model_disk *d);
/* Interrupt status bits out of nowhere. */
void ahci_model_raise(struct ahci_model *m, unsigned port, uint32_t bits);
#endif
