/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_UNIT_SUPPORT_AHCI_H
#define TESTS_UNIT_SUPPORT_AHCI_H
/*
 * A controller of the loopback arrangement with a disk on port 0, its node opened, and requests in
 * numbers.
 */
#include "tests/unit/memdisk.h"
#include "tests/unit/support.h"

#include "ahci/device/model.h"

#define SATA_SIZE (4u << 20)
#define SATA_MANY 100u

extern struct ahci_model hba;
extern struct ahci_model_disk disk;
extern uint8_t *sata_data, *sata_mirror;
extern struct test_root root;

void sata_prepare(uint32_t block); /* the model with its disk, serial "s0"; not attached */
void co_sata_open(const char *more);
void co_sata_shut(void); /* the driver did nothing wrong */
void sata_free(void);    /* without having opened */
/* Random verified reads and writes of odd places and lengths, one after the other. */
void co_sata_random(unsigned count);

/* SATA_MANY reads (or writes) of 4 KiB at 4 KiB * i, side by side. */
struct sata_many {
    struct co_start start;
    uint8_t *buf;
    int rc;
    bool write, done;
};
extern struct sata_many sata_many[SATA_MANY];
extern unsigned sata_ended;
void sata_start_many(unsigned count, bool write);
void co_sata_end_many(unsigned count);  /* what succeeded is right */
void co_sata_wait_many(unsigned count); /* whatever came of them */
void sata_free_many(unsigned count);    /* after that */
void co_sata_settle(void);              /* until no port recovers */
#endif
