# NOTE FROM THE LEAD (01:24): tests/chaos.py, chaos_faults.py, chaos_starts.py and test_chaos.py are on branch main now.
# Delete this file, commit row 11, `git merge main`, and add to chaos: a scenario (or fault) of W&B online with servers that refuse, hang, err and
# answer garbage (your wandb_server.py). The lead runs the 40 rounds himself. Then report.
