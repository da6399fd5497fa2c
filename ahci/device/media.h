/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef AHCI_DEVICE_MEDIA_H
#define AHCI_DEVICE_MEDIA_H
/* Between the model's controller and its disks. */
#include "ahci/device/model.h"

struct media_command {
    struct ahci_header *header;
    struct ahci_table *table;
    unsigned slot;
};
/* Does it, data and byte count included. 0, or the error register (never 0 then). */
int media_execute(struct ahci_model *m, struct ahci_model_disk *d, const struct media_command *c);
/* A test wants this command never to end. */
bool media_stuck(struct ahci_model_disk *d, const struct media_command *c);
void ahci_model_complain(struct ahci_model *m, const char *what);
#endif
