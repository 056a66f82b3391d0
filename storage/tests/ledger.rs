//! The ledger's contract, run on SQLite and on its in-memory twin.

#[path = "ledger/rigs.rs"]
mod rigs;
#[path = "ledger/schedules.rs"]
mod schedules;

use boxgate_storage::conformance::ledger;

use self::rigs::{Memory, Sql};

macro_rules! promises {
    ($($promise:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $promise() {
                super::ledger::$promise(&super::Memory::new()).await;
            })*
        }

        mod sqlite {
            $(#[tokio::test]
            async fn $promise() {
                super::ledger::$promise(&super::Sql::open().await).await;
            })*
        }
    };
}

promises! {
    a_new_upload_is_open_at_zero
    the_offset_moves_only_forward_and_in_order
    a_step_that_fits_no_part_is_refused
    a_stale_epoch_changes_nothing
    completion_is_fenced_by_the_length
    the_last_step_and_the_end_are_one_change
    a_length_that_was_not_declared_is_known_at_the_end
    an_aborted_upload_is_trash
    uploads_are_listed_by_state_and_age
    publishing_makes_name_blob_tree_and_event
    names_are_found_without_case_and_versions_without_v
    equal_bytes_are_kept_once_per_organization
    equal_bytes_to_the_same_name_replace_nothing
    a_replaced_blob_stays_until_it_is_due
    equal_bytes_revive_a_doomed_blob_but_no_deleting_one
    a_damaged_blob_is_healed_by_sending_it_again
    nothing_is_published_into_an_organization_that_is_gone
    uploads_to_one_name_at_once_leave_one_whole_winner
    a_row_keeps_all_that_it_was_made_with
    a_part_may_be_committed_piece_by_piece
    a_piece_that_leaves_its_part_is_refused
    parts_are_committed_together_or_not_at_all
    receipts_are_kept_and_old_tails_are_trash
    the_tail_of_a_published_upload_is_trash
    a_deferred_length_is_fixed_once
    digests_are_declared_while_it_is_open
    a_digest_is_declared_before_the_bytes_that_it_is_of
    an_upload_ends_only_at_its_own_epoch
    only_so_many_kept_uploads_are_open_at_once
    the_uploads_of_a_sender_to_a_name_are_found
    an_upload_replaces_what_its_sender_left_before_it
    service_accounts_do_not_share_uploads
    open_uploads_are_paged
    what_is_over_is_told_by_its_reason
    an_upload_can_be_joined_once_its_sources_are_whole
    what_an_upload_is_joined_of_stays_until_then
    a_join_that_is_asked_for_again_is_the_same
    an_upload_ends_with_what_it_waits_for
    what_cannot_be_joined_is_refused
    an_upload_that_waits_for_others_is_not_idle
    what_is_asked_about_is_published_once_it_passed
    one_process_asks_at_a_time
    a_rejected_upload_ends_with_its_bytes
    a_quarantined_upload_waits_for_somebody
    what_waits_to_be_published_is_told_when_it_is_due
    a_store_upload_is_named_once
    pieces_are_held_in_any_order_and_counted_once
    a_piece_that_is_cut_otherwise_is_refused
    the_size_of_pieces_is_fixed_once
    pieces_are_forgotten_with_their_upload
    what_is_held_apart_goes_with_its_use
    an_upload_without_a_target_holds_its_blob
    a_blob_that_an_upload_holds_is_healed_and_goes_with_its_tenant
}
